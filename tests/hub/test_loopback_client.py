from __future__ import annotations
def test_x(hub):
    assert hub.url
def test_y(xet_hub):
    assert xet_hub.url
