"""Units in threads: every one once, by its own argument; finished ones come from the store, and the log names all."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.parallel import (
    THREADS,
    Shared,
    Threads,
    Unit,
    executor_of,
    in_order,
    side_by_side,
)
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.store import FOLDER, Kept, Store


def scaled(shared, argument):
    return Kept({"product": shared * argument}, {"argument": float(argument)})


def units_of(n, shared=None):
    shared = shared or Shared(lambda: np.arange(3.0))
    return [Unit(f"unit {k + 1}/{n}", shared, float(k), (k,)) for k in range(n)]


class Counted(Progress):
    done = 0

    def advance(self, steps=1):
        self.done += steps


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_unit_is_made_once_by_its_own_argument(side_by_side):
    progress = Counted()
    found = dict(THREADS.results(scaled, units_of(20), progress=progress, side_by_side=side_by_side))
    assert sorted(found) == list(range(20)) and progress.done == 20
    for place, kept in found.items():
        np.testing.assert_array_equal(kept.arrays["product"], np.arange(3.0) * place)


def test_finished_units_are_not_made_again_and_a_damaged_one_is(tmp_path):
    made = []

    def counted(shared, argument):
        made.append(argument)
        return scaled(shared, argument)

    first = list(in_order(THREADS.results(counted, units_of(4), store=Store(tmp_path, "study"))))
    assert sorted(made) == [0, 1, 2, 3]
    sorted((tmp_path / FOLDER).iterdir())[0].write_bytes(b"cut")
    again = list(in_order(THREADS.results(counted, units_of(6), store=Store(tmp_path, "study"))))
    assert len(made) == 7
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.arrays["product"], other.arrays["product"])
        assert one.facts == other.facts


def test_results_come_in_order_whatever_order_units_end_in():
    results = [(2, Kept({}, 2)), (0, Kept({}, 0)), (3, Kept({}, 3)), (1, Kept({}, 1))]
    assert [kept.facts for kept in in_order(results)] == [0, 1, 2, 3]


def test_what_units_share_is_made_once_and_dropped_with_the_last_of_them():
    made = []
    shared, kept = (Shared(lambda: made.append(1) or 2.0, keep=keep) for keep in (False, True))
    for one, times in ((shared, 2), (kept, 1)):
        made.clear()
        for _ in range(2):
            assert len(list(THREADS.results(scaled, units_of(5, one)))) == 5
        assert len(made) == times


def difference(whole, part):
    return whole + part


def test_a_variant_is_made_of_what_it_varies_which_stays_as_long_as_it_is_needed():
    made = []
    whole = Shared(lambda: made.append("whole") or np.arange(3.0))
    variants = [Shared(lambda k=k: made.append(k) or float(k), of=whole, vary=difference) for k in range(3)]
    units = [Unit(f"unit {k}", variants[k % 3], 1.0) for k in range(6)]
    found = [kept.arrays["product"].tolist() for kept in in_order(THREADS.results(scaled, units))]
    assert found == [[k % 3, k % 3 + 1, k % 3 + 2] for k in range(6)]
    assert sorted(map(str, made)) == ["0", "1", "2", "whole"]
    assert variants[0].parts == [whole, variants[0]] and whole.parts == [whole]


def test_the_log_has_a_line_a_unit(tmp_path):
    log, store = tmp_path / "fits.log", Store(tmp_path, "study")
    with executor_of(None, log) as executor:
        list(executor.results(scaled, units_of(2), store=store, side_by_side=False))
        list(executor.results(scaled, units_of(2), store=store))
    lines = [line.split("  ", 1)[1] for line in log.read_text().splitlines()]
    assert [line.split("  ")[:2] for line in lines[:2]] == [
        ["unit 1/2", "worker threads"],
        ["unit 2/2", "worker threads"],
    ]
    assert all(line.endswith(" MiB") for line in lines[:2])
    assert lines[2:] == ["unit 1/2  kept from before", "unit 2/2  kept from before"]


def test_a_log_that_cannot_be_written_ends_the_work_with_a_line(tmp_path):
    with pytest.raises(InputError, match=r"--log .*: cannot be written \(Is a directory\)"):
        list(Threads(tmp_path).results(scaled, units_of(1)))


def test_what_a_unit_raises_ends_the_work_and_finished_ones_are_kept(tmp_path):
    def failing(shared, argument):
        if argument == 2:
            raise InputError("row 3: cannot be used")
        return scaled(shared, argument)

    with pytest.raises(InputError, match="row 3: cannot be used"):
        list(THREADS.results(failing, units_of(4), store=Store(tmp_path, "study"), side_by_side=False))
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_a_full_disk_names_the_folder_and_what_is_needed(tmp_path, monkeypatch):
    from rapids_pipeline.backend import store as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    message = (
        r"\.finished: a finished fit of 0\.0 MB cannot be kept \(No space left on device\); make room there"
    )
    with pytest.raises(InputError, match=message):
        list(THREADS.results(scaled, units_of(1), store=Store(tmp_path, "study")))
    assert not list((tmp_path / FOLDER).iterdir())


def test_calls_side_by_side_give_what_they_return_by_name_on_one_thread_each():
    def threads():
        return max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")

    def fails():
        raise InputError("not this one")

    assert side_by_side({"b": lambda: 2, "a": lambda: 1, "threads": threads}) == {
        "b": 2,
        "a": 1,
        "threads": 1,
    }
    assert side_by_side({}) == {}
    with pytest.raises(InputError, match="not this one"):
        side_by_side({"good": lambda: 1, "bad": fails})
