"""Scheduler and block manager under random orders of events: invariants of the books, and that nothing is lost, repeated or starved."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

from gossamer import _core

testing = _core.testing


class Request:
    """What a test knows of one sequence."""

    def __init__(self, prompt: int, max_tokens: int) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.emitted = 0
        self.computed = 0

    @property
    def known(self) -> int:
        return self.prompt + self.emitted


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, stops and aborts; the model is a dict of what each sequence has emitted."""

    ids = Bundle("ids")

    @initialize(num_blocks=st.integers(2, 12), block_size=st.integers(1, 5), max_num_seqs=st.integers(1, 5), extra=st.integers(0, 12))
    def start(self, num_blocks, block_size, max_num_seqs, extra):
        self.block_size = block_size
        self.capacity = num_blocks * block_size
        self.budget = max_num_seqs + extra
        self.max_num_seqs = max_num_seqs
        self.num_blocks = num_blocks
        self.scheduler = testing.Scheduler(num_blocks, block_size, max_num_seqs, self.budget)
        self.live: dict[int, Request] = {}
        self.next_id = 1

    @rule(target=ids, prompt=st.integers(1, 30), max_tokens=st.integers(0, 12))
    def add(self, prompt, max_tokens):
        request = self.next_id
        self.next_id += 1
        try:
            self.scheduler.add(request, prompt, max_tokens)
        except ValueError:
            # Refused only if it could not run alone; its last token is never computed.
            assert prompt + max(max_tokens - 1, 0) > self.capacity
            return multiple()
        assert prompt + max(max_tokens - 1, 0) <= self.capacity
        self.live[request] = Request(prompt, max_tokens)
        return request

    @rule(request=consumes(ids), again=st.booleans())
    def abort(self, request, again):
        self.scheduler.abort(request)
        if again:
            self.scheduler.abort(request)
        self.live.pop(request, None)

    @rule(request=st.integers(0, 100_000))
    def abort_unknown(self, request):
        if request not in self.live:
            self.scheduler.abort(request)

    @precondition(lambda self: self.live)
    @rule(stop=st.integers(0, 5), abort_in_step=st.integers(0, 8))
    def step(self, stop, abort_in_step):
        self.advance(stop, abort_in_step)

    def advance(self, stop, abort_in_step):
        chunks, preempted = self.scheduler.schedule()
        for request in preempted:
            self.live[request].computed = 0
        self.check_plan(chunks)
        self.scheduler.check_invariants()

        running = [chunk[0] for chunk in chunks]
        if abort_in_step < len(running):  # cancelled while the step computes
            self.scheduler.abort(running[abort_in_step])
            del self.live[running[abort_in_step]]
        sampled = [request for request, _, _, samples in chunks if samples and request in self.live]
        stopped = sampled[stop : stop + 1]
        over = self.scheduler.commit(stopped)

        expected = set()
        for request, _, count, samples in chunks:
            if request not in self.live:
                continue
            entry = self.live[request]
            entry.computed += count
            entry.emitted += samples
            out_of_tokens = entry.computed >= entry.prompt and entry.emitted >= entry.max_tokens
            if out_of_tokens or request in stopped:
                expected.add(request)
        assert set(over) == expected
        assert len(over) == len(expected)
        for request in over:
            del self.live[request]

    def check_plan(self, chunks):
        assert chunks, "work is waiting, and nothing runs"
        ids = [chunk[0] for chunk in chunks]
        assert len(set(ids)) == len(ids) <= self.max_num_seqs
        assert min(self.live) in ids, "the oldest always advances"
        assert sum(count for _, _, count, _ in chunks) <= self.budget
        slots = set()
        for request, begin, count, samples in chunks:
            entry = self.live[request]
            assert count >= 1
            assert begin == entry.computed, "no token twice, none left out"
            assert begin + count <= entry.known
            assert samples == (begin + count == entry.known and entry.max_tokens > 0)
            table = self.scheduler.table(request)
            assert len(table) * self.block_size >= begin + count
            slots.update(table)
        assert sum(len(self.scheduler.table(request)) for request in ids) == len(slots), "a block belongs to two sequences"

    @invariant()
    def books_balance(self):
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check_invariants()
        assert self.scheduler.num_running + self.scheduler.num_waiting == len(self.live)
        assert self.scheduler.has_work == bool(self.live)
        used = sum(len(self.scheduler.table(request)) for request in self.live)
        assert self.scheduler.num_free_blocks + used == self.num_blocks

    def teardown(self):
        """Everything ends within a bounded number of steps, and every block comes back."""
        if not hasattr(self, "scheduler"):
            return
        remaining = sum(entry.prompt + entry.max_tokens + 1 for entry in self.live.values())
        bound = 2 * (remaining + self.capacity) * (len(self.live) + 1)
        for _ in range(bound):
            if not self.live:
                break
            self.advance(stop=99, abort_in_step=99)
        assert not self.live, "livelock"
        assert self.scheduler.num_free_blocks == self.num_blocks


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase


class BlockManagerMachine(RuleBasedStateMachine):
    """Reserves and releases against a dict of lengths."""

    @initialize(num_blocks=st.integers(1, 10), block_size=st.integers(1, 4))
    def start(self, num_blocks, block_size):
        self.manager = testing.BlockManager(num_blocks, block_size)
        self.num_blocks, self.block_size = num_blocks, block_size
        self.lengths: dict[int, int] = {}
        self.tables: dict[int, list[int]] = {}

    def blocks(self, tokens):
        return -(-tokens // self.block_size)

    @rule(sequence=st.integers(0, 5), tokens=st.integers(1, 30))
    def reserve(self, sequence, tokens):
        held = self.blocks(self.lengths.get(sequence, 0))
        fits = self.blocks(tokens) - held <= self.manager.num_free
        assert self.manager.reserve(sequence, tokens) == fits
        if fits:
            self.lengths[sequence] = max(tokens, self.lengths.get(sequence, 0))
        table = self.manager.table(sequence)
        before = self.tables.get(sequence, [])
        assert table[: len(before)] == before, "a sequence's blocks moved"
        self.tables[sequence] = table

    @rule(sequence=st.integers(0, 5))
    def release(self, sequence):
        self.manager.release(sequence)
        self.lengths.pop(sequence, None)
        self.tables.pop(sequence, None)

    @rule(sequence=st.integers(0, 5), position=st.integers(0, 29))
    def slot(self, sequence, position):
        if position < self.lengths.get(sequence, 0):
            block = self.manager.table(sequence)[position // self.block_size]
            assert self.manager.slot(sequence, position) == block * self.block_size + position % self.block_size

    @invariant()
    def books_balance(self):
        if not hasattr(self, "manager"):
            return
        self.manager.check_invariants()
        used = [block for table in self.tables.values() for block in table]
        assert len(set(used)) == len(used)
        assert self.manager.num_free + len(used) == self.num_blocks
        for sequence, length in self.lengths.items():
            assert len(self.tables[sequence]) == self.blocks(length)


TestBlockManager = BlockManagerMachine.TestCase


def test_ids_must_grow():
    scheduler = testing.Scheduler(4, 4, 2, 4)
    scheduler.add(5, 1, 1)
    with pytest.raises((ValueError, RuntimeError)):
        scheduler.add(5, 1, 1)
