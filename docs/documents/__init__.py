"""What ``--json`` prints, declared: ``docs/schemas`` and ``docs/json.md`` are generated from this."""
