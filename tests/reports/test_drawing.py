from lightning_relay.reports.drawing import FONT, shortened, ticks


def test_wide_texts_lose_their_middle() -> None:
    name = "encoder.lstm.l1_reverse: 31 @5"
    for width in range(20, 200):
        short = shortened(name, width)
        assert FONT.getlength(short) <= width
        if short != name:
            head, tail = short.split("…")
            assert name.startswith(head)
            assert name.endswith(tail)
            assert len(tail) >= len(head)
    assert shortened(name, 300) == name
    assert shortened(name, 95).endswith(": 31 @5")
    assert shortened(name, 1) == "…"


def test_labels_are_at_least_so_far_apart() -> None:
    assert list(ticks(5, 70, 12)) == [0, 1, 2, 3, 4]
    assert list(ticks(64, 448, 12)) == list(range(0, 64, 2))
