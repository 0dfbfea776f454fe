"""The page that a worker shares with its master."""

from __future__ import annotations

import itertools
import multiprocessing

from gunicorn_handover.board import Board


def _send_heartbeats(board: Board, first: int) -> None:
    for moment in itertools.count(first):
        board.last_heartbeat = moment


def test_heartbeat_is_never_read_half_written() -> None:
    board, first = Board(), 10**9
    worker = multiprocessing.get_context("fork").Process(target=_send_heartbeats, args=(board, first), daemon=True)
    worker.start()
    try:
        while not board.last_heartbeat:
            pass
        latest = float(first)
        for _ in range(200_000):
            moment = board.last_heartbeat
            assert moment >= latest
            latest = moment
    finally:
        worker.kill()
        worker.join()
    assert latest > first
