from pathlib import Path
from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import *

def test_it(hub: LoopbackHub, tmp_path: Path):
    seed(hub)
    built = build(tmp_path)
    print(sorted(p.name for p in built.iterdir()))
    hub.log.clear()
    e = overlay("publish", built, "hf://"+REPO, "--dry-run")
    print(e, e.refusal and (e.refusal.line, e.refusal.hint)); print(e.output)
    print(hub.log)
    e = publish(built)
    print(e, e.refusal and (e.refusal.line, e.refusal.hint)); print(e.output)
    print(hub.log)
    print(hub.read(REPO, "README.md").decode())
    assert 0
