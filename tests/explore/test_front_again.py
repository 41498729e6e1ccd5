"""A front timed again: jobs that are kept, scores that come from a table instead of training."""

from __future__ import annotations

import json

import pytest

from lightning_mbu.bench.child import Job, JobFailed
from lightning_mbu.bench.kept import KeptJobs, job_versions
from lightning_mbu.cli import main
from lightning_mbu.comparison import Comparison
from lightning_mbu.explore import front, front_show
from lightning_mbu.timing import Timing


class Machine:
    """Measures a job in the place of `run_job`, and counts."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.broken = False

    def __call__(self, job: Job, *told: object) -> dict[str, object]:
        if self.broken:
            raise JobFailed("no memory")
        self.jobs.append(job)
        times = {"packed eager": 2.0, "float eager": 9.0, "int8 A": 5.0}
        found = {name: Timing((ms * job.arguments["width"],)) for name, ms in times.items()}
        return Comparison(found, {}, {}, {}, 4_000_000, 100_000).to_dict()


@pytest.fixture
def machine(monkeypatch):
    """In the place of the processes that measure."""
    machine = Machine()
    monkeypatch.setattr(front, "run_job", machine)
    monkeypatch.setattr(front, "PROCESSORS", ())
    return machine


def test_a_job_is_measured_once_for_each_version(tmp_path) -> None:
    machine, file = Machine(), tmp_path / "kept.json"
    narrow, wide = (Job("compare", "mbunet", {"width": width}) for width in (8, 16))
    first = KeptJobs(file, {"torch": "1"}).run(machine, narrow)
    again = KeptJobs(file, {"torch": "1"})
    assert again.run(machine, narrow) == first and machine.jobs == [narrow]
    assert again.date(narrow) is not None and again.date(wide) is None
    assert again.run(machine, wide) != first and machine.jobs == [narrow, wide]
    KeptJobs(file, {"torch": "2"}).run(machine, narrow)
    assert machine.jobs == [narrow, wide, narrow], "another version, another time"
    assert len(json.loads(file.read_text())["jobs"]) == 3 and list(tmp_path.iterdir()) == [file]


def test_what_fails_is_not_kept(tmp_path) -> None:
    machine, kept, job = (
        Machine(),
        KeptJobs(tmp_path / "kept.json", {}),
        Job("compare", "mbunet", {"width": 8}),
    )
    machine.broken = True
    with pytest.raises(JobFailed, match="no memory"):
        kept.run(machine, job)
    machine.broken = False
    assert kept.run(machine, job) and machine.jobs == [job]


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}'])
def test_another_file_is_not_written_over(text, tmp_path) -> None:
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(ValueError, match="is no record of finished jobs"):
        KeptJobs(tmp_path / "kept.json", {})


def test_versions_name_processor_packages_and_kernels(monkeypatch) -> None:
    before = job_versions()
    assert {"processor", "torch", "openvino", "kernels", "lightning-mbu"} <= set(
        before
    ) and "date" not in before
    monkeypatch.setenv("MBU_CPU_KERNEL", "scalar")
    assert job_versions() != before


def test_a_front_without_training(nuclei, tmp_path, machine, capsys) -> None:
    scores = tmp_path / "ingredients-nuclei-16px-w8-e1.csv"
    scores.write_text(
        "row,seeds,value,test/dice,test/dice ±\nfloat,3,0.9,0.5,0.01\nplain + thermometer of 2,1,0.9,0.4,\n"
        "plain + warm-up of 10 %,1,0.9,0.3,\n"
    )
    command = ["study", "front", "--data", str(nuclei), "--size", "16", "--width", "8", "--epochs", "1"]
    command += ["--scores", str(scores), "-o", str(tmp_path / "out"), "--at", "32x32"]
    for _ in range(2):
        assert main(command) == 0
    assert len(machine.jobs) == 2 and not (tmp_path / "out/study.db").exists()
    assert "2 of 2 networks were timed before" in " ".join(capsys.readouterr().out.split())
    points, score = front_show.read(tmp_path / "out/front-nuclei-16px-w8-e1-at-32x32.csv")
    assert score == "test/dice"
    assert [(p.row, p.runtime, p.ms, p.score, p.spread, p.seeds) for p in points] == [
        ("float", "float eager", 72.0, 0.5, 0.01, 3), ("float", "int8 A", 40.0, 0.5, 0.01, 3),
        ("plain + thermometer of 2", "packed eager", 16.0, 0.4, None, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), [
    ({"--epochs": "2"}, "is not the table of these settings, ingredients-nuclei-16px-w8-e2.csv"),
    ({"--only": "shortcuts"}, "has no row 'shortcuts'; it has float"),
    ({"--scores": "none/ingredients-nuclei-16px-w8-e1.csv"}, "there is no file"),
])  # fmt: skip
def test_scores_that_do_not_fit(changes, words, nuclei, tmp_path, machine, capsys) -> None:
    scores = tmp_path / "ingredients-nuclei-16px-w8-e1.csv"
    scores.write_text("row,seeds,test/dice,test/dice ±\nfloat,3,0.5,0.01\n")
    options = {
        "--data": str(nuclei),
        "--size": "16",
        "--width": "8",
        "--epochs": "1",
        "--scores": str(scores),
    }
    options |= {"-o": str(tmp_path / "out"), **changes}
    assert main(["study", "front", *(word for pair in options.items() for word in pair)]) == 2
    assert words in " ".join(capsys.readouterr().err.split()) and not machine.jobs


def test_a_table_without_scores(nuclei, tmp_path, capsys) -> None:
    scores = tmp_path / "ingredients-nuclei-16px-w16-e1.csv"
    scores.write_text("row,seeds,test/iou\nfloat,3,0.5\n")
    command = [
        "study",
        "front",
        "--data",
        str(nuclei),
        "--size",
        "16",
        "--epochs",
        "1",
        "--scores",
        str(scores),
    ]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    assert "no table of a study with the columns row, seeds, test/dice" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["study", "bits", "--data", str(nuclei), "--scores", str(scores)]) == 2
    assert "--scores is an option of front" in " ".join(capsys.readouterr().err.split())
