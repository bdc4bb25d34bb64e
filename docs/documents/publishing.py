"""What publishing prints."""

from __future__ import annotations

from typing import Final, get_args

from documents.shared import FINDINGS, NAMES
from documents.words import count, digest, flag, items, one_of, or_null, record, text
from overlay.core.publishing import Do, Mode

PUBLISHED: Final = {
    "repo": text("The repository: `org/name`."),
    "plan": record(
        "What publishing does, or would do.",
        {
            "mode": one_of(
                "The difference, a whole checkpoint, or a change to the base's own repository.", get_args(Mode)
            ),
            "parent": or_null(text("The commit that the new one is laid on; null: the repository is made first.")),
            "create_pr": flag("Whether the commit is proposed as a pull request."),
            "private": flag("Whether a repository that is made is private."),
            "message": text("The commit's message."),
            "operations": items(
                "One for each file that the repository shall hold; none without a lock.",
                record(
                    "A file, and how it gets there.",
                    {
                        "do": one_of("What is done; `keep`: it is there already.", get_args(Do)),
                        "path": text("The file in the repository."),
                        "bytes": count("Bytes of the file."),
                        "sha256": digest('Of the file; "" for small files of the base.', may_be_empty=True),
                        "source": text('A path here, or an address to copy from; "" for a text that was made.'),
                    },
                ),
            ),
            "bytes": record(
                "What it costs.",
                {
                    "uploaded": count("Bytes of the files that are uploaded."),
                    "copied": count("Bytes of the files that the server copies."),
                    "unchanged": count("Bytes of the files that are there already."),
                },
            ),
            "empty": flag("Whether there is nothing to do."),
            "notes": items("Anything worth a look.", NAMES),
        },
    ),
    "findings": FINDINGS,
    "dry_run": flag("Whether nothing was to be changed."),
    "changed": flag("Whether a commit was made or proposed."),
    "commit": or_null(text("That commit; null: none was made.")),
    "url": text('Of the commit or the pull request, or "".'),
}
