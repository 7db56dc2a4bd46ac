"""What is decided for a data set, and the reasons that are given."""

import math
import os

import numpy as np
import pytest

from rep3d.datasets import machine
from rep3d.datasets.fingerprint import PERCENTILES, QUANTILES, CaseFacts
from rep3d.datasets.machine import Machine, this_machine
from rep3d.datasets.planning import plan_bundle
from rep3d.datasets.planning.patches import PAPER, SMALL, choose_patch
from rep3d.datasets.planning.spacings import choose_spacing, too_large, wrong_spacings

LAPTOP = Machine(16e9, False, "a laptop", 16e9)
GPU = Machine(24e9, True, "a GPU of 24 GB", 64e9)


def case(name="a", shape=(90, 80, 40), spacing=(1.0, 1.0, 1.0), orientation="RAS", darkest=0.0, labelled=(0.0, 100.0)):
    percentiles = np.linspace(darkest, 300, len(PERCENTILES)).tolist()
    quantiles = np.linspace(*labelled, len(QUANTILES)).tolist()
    return CaseFacts(name, shape, spacing, orientation, [percentiles], [quantiles[:5]], [1000, 10], name, [quantiles])


def reasons(facts, machine=LAPTOP, **told):
    plan = plan_bundle(facts, machine, patients=len(facts), **told)
    return plan, {decision.what: decision.why for decision in plan.decisions}


def test_the_reason_of_an_anisotropic_spacing():
    thicknesses = [3.0, 3.0, 5.0, 5.0, 5.0]
    spacing, decision = choose_spacing([case(spacing=(0.8, 0.8, z)) for z in thicknesses])
    assert spacing == [0.8, 0.8, np.percentile(thicknesses, 10)]
    assert decision.what == "spacing 0.80 x 0.80 x 3.00 mm"
    assert decision.why == "median of 5 case(s); the third axis is anisotropic, so its 10th percentile"


def test_a_spacing_is_not_finer_than_that_of_the_other_axes():
    spacing, decision = choose_spacing([case(spacing=(0.8, 0.8, z)) for z in [0.625] * 3 + [5.0] * 17])
    assert spacing == [0.8, 0.8, 0.8]
    assert decision.why.startswith(
        "median of 20 case(s); the third axis is anisotropic, so its 10th percentile, but no finer than the others"
    )


def test_spacings_count_along_the_same_axes():
    """A file's axes may lie anyhow."""
    facts = [case(spacing=(0.8, 0.8, 3.0)), case(spacing=(3.0, 0.8, 0.8), orientation="SPL")]
    spacing, _ = choose_spacing(facts)
    assert spacing == [0.8, 0.8, 3.0]


def test_headers_that_must_be_wrong():
    facts = [case(str(i)) for i in range(4)] + [case("tenth", spacing=(0.1, 0.1, 0.1))]
    told = (
        "tenth: voxels of 0.1 x 0.1 x 0.1 mm, at least 5 times as large or small as those of most cases, 1 x 1 x 1 mm"
    )
    assert wrong_spacings(facts) == {"tenth": [told]}
    finer = [case(str(i), spacing=(0.9, 0.9, 0.9)) for i in range(4)]
    assert [*wrong_spacings([*finer, case("centimetres", spacing=(7.0, 7.0, 8.0))])] == ["centimetres"]
    thin_slices = [case("thick", spacing=(0.8, 0.8, 8.0)), case("thin", spacing=(0.8, 0.8, 0.8))]
    assert wrong_spacings(thin_slices) == {}
    with pytest.raises(
        ValueError, match="voxels of 10 and of 1 differ at least 5 times along all axes, and so do those of"
    ):
        wrong_spacings([case("1"), case("10", spacing=(10.0, 10.0, 10.0))])


def test_cases_that_no_training_takes():
    """One whose header is right, but whose voxels are many at the spacing of the others."""
    facts = [case(str(i), (20, 20, 20), (0.05, 0.05, 0.05)) for i in range(3)]
    large = case("large", (120, 130, 140), (0.4, 0.4, 0.5), "SPL")
    (told,) = too_large([*facts, large], (0.05, 0.05, 0.05))["large"]
    assert told.startswith("large: 120 x 130 x 140 voxels of 0.4 x 0.4 x 0.5 mm become 1391 x 1033 x 953 of 0.05")
    assert too_large([*facts, large], (0.1, 0.1, 0.1)) == {}
    assert [*too_large(facts, (2.0, 2.0, 2.0))] == ["0", "1", "2"]


@pytest.mark.parametrize("memory", [1.7e9, 1.9e9, 16e9])
def test_a_step_and_what_stays_in_memory_fit_together(memory):
    facts = [case(str(i), (200, 200, 120)) for i in range(40)]
    plan = plan_bundle(facts, Machine(memory, False, "a computer", memory), patients=40)
    step = SMALL.fixed + SMALL.per_voxel * plan.batch_size * math.prod(plan.patch_size)
    assert step + plan.cache_num * 4 * 2 * 200 * 200 * 120 <= memory


CT_NAMES = ("NCCT", "CTA", "CECT", "CBCT", "ct_0", "cta arterial")


@pytest.mark.parametrize(
    ("darkest", "told", "modality", "expected"),
    [
        (-1000.0, (), None, "in all cases voxels lie below -200"),
        (0.0, (), None, "in no case voxels lie below -200"),
        (-1000.0, ("CT",), None, "the data set's file calls it CT"),
        (0.0, ("T1w", "MRI"), None, "the data set's file calls it T1w, MRI"),
        (0.0, ("CT",), None, "the data set's file calls it CT; 1 case(s) do not look so, such as a"),
        (-1000.0, ("CT_0", "CT_arterial"), None, "the data set's file calls it CT_0, CT_arterial"),
        *((-1000.0, (name,), None, f"the data set's file calls it {name}") for name in CT_NAMES),
        (0.0, ("direct", "act"), None, "the data set's file calls it direct, act"),
        (-1000.0, ("CT",), "MR", "you said so"),
        (0.0, ("CT1",), None, "the data set's file calls it CT1; not all cases have the air of a CT"),
        (0.0, ("T1CT",), None, "the data set's file calls it T1CT"),
        (-1000.0, ("CT1",), None, "the data set's file calls it CT1"),
        (0.0, ("Computed Tomography",), None, "the data set's file calls it Computed Tomography; 1 case(s) do not"),
    ],
)
def test_modality(darkest, told, modality, expected):
    plan, why = reasons([case(darkest=darkest)], told=told, modality=modality)
    assert why[f"modality {plan.modality}"].startswith(expected)
    is_ct = plan.modality == "CT"
    sure = "CT1" not in told or darkest < 0
    is_told = modality is None and sure and any(name.startswith(("CT", "Comp")) or name in CT_NAMES for name in told)
    assert is_ct == (is_told or expected.startswith("in all"))
    assert plan.recipes == ["automatic", "window" if is_ct else "z_score"]
    assert (plan.intensity_window is not None) == is_ct


def test_modalities_that_are_mixed():
    with pytest.raises(
        ValueError, match="1 case.s. have the air of CT, such as b, and 2 have not, such as a: expected"
    ):
        reasons([case("a"), case("b", darkest=-1000.0), case("c")])


def test_the_window_is_that_of_all_labelled_voxels():
    """Not the mean of the cases' windows."""
    facts = [case("a", darkest=-1000.0, labelled=(-100.0, 100.0)), case("b", darkest=-1000.0, labelled=(100.0, 300.0))]
    plan, why = reasons(facts)
    assert plan.intensity_window == [-98.0, 298.0]
    assert why["intensity window -98 to 298 HU"] == "percentiles 0.5 and 99.5 of the labelled voxels of all cases"


@pytest.mark.parametrize("shape", [(90, 80, 40), (512, 512, 20), (10, 10, 10), (300, 300, 300), (31, 400, 33)])
@pytest.mark.parametrize(("machine", "budget"), [(LAPTOP, SMALL), (GPU, PAPER)], ids=["laptop", "GPU"])
def test_patches_that_networks_take_and_memory_holds(machine, budget, shape):
    patch, batch, _ = choose_patch([case(shape=shape)], (1.0, 1.0, 1.0), budget, machine)
    assert all(edge % 16 == 0 and edge >= 32 for edge in patch)
    assert all(edge <= max(32, n + 15) for edge, n in zip(patch, shape, strict=True))
    assert budget.fixed + budget.per_voxel * batch * math.prod(patch) <= machine.memory
    assert math.prod(patch) <= max(budget.most_voxels, 32**3)


def test_many_labels_take_memory():
    few, many = (case(shape=(200, 200, 200))._replace(voxels=[9] * count) for count in (16, 117))
    edges = [math.prod(choose_patch([one], (1.0, 1.0, 1.0), PAPER, GPU)[0]) for one in (few, many)]
    assert edges[0] > 1.3 * edges[1]


def test_little_memory_takes_small_patches_and_less_is_refused():
    facts = [case(shape=(200, 200, 200))]
    patch, batch, _ = choose_patch(facts, (1.0, 1.0, 1.0), PAPER, Machine(2.1e9, True, "a GPU of 2.1 GB", 8e9))
    assert (patch, batch) == ([32, 32, 32], 1)
    with pytest.raises(ValueError, match="a GPU of 1 GB is too small: a step of rep3d with the least patch, 32x32x32"):
        choose_patch(facts, (1.0, 1.0, 1.0), PAPER, Machine(1e9, True, "a GPU of 1 GB", 8e9))


@pytest.mark.parametrize(
    ("count", "folds", "said"),
    [
        (1, 1, "there is 1 case, and 2 are needed, for 5 folds 5"),
        (3, 3, "there are 3 cases, and 5 folds need 5"),
        (40, 5, "there are 40 cases, each of which validates once; data/splits.json is yours to edit"),
    ],
)
def test_folds(count, folds, said):
    plan, why = reasons([case(str(i)) for i in range(count)])
    assert plan.folds == folds and said in why.values()


@pytest.mark.parametrize(
    ("own", "sizes", "interval", "said"),
    [
        ([(3, 1, 0)], (3, 1, 0), 5, ("1 fold(s)", "yours, from data/splits.json")),
        ([(2, 1, 1), (1, 2, 1)], (2, 1, 1), 5, ("2 fold(s)", "yours, from data/splits.json")),
        ([(4, 0, 0)], (4, 0, 0), 0, ("no validation", "data/splits.json is yours, and holds no case out")),
    ],
)
def test_folds_of_a_person(own, sizes, interval, said):
    folds = [{part: ["x"] * n for part, n in zip(("train", "val", "test"), one, strict=True)} for one in own]
    plan, why = reasons([case(str(i)) for i in range(4)], own_splits=folds)
    assert plan.folds == len(own) and tuple(plan.sizes.values()) == sizes
    assert plan.val_interval == interval and said in why.items()


def test_patients_of_several_cases():
    plan = plan_bundle([case(str(i)) for i in range(6)], LAPTOP, patients=3)
    assert plan.folds == 3 and "there are 3 patients, and 5 folds need 5" in {one.why for one in plan.decisions}


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/", {"memory.max": 3}, 3),  # a container
        ("0::/job/step", {"job/memory.max": 3, "job/step/memory.max": "max"}, 3),
        ("0::/job/step", {"job/memory.max": 7, "job/step/memory.max": 3, "other/memory.max": 1}, 3),
        ("4:cpu,memory:/docker/1\n0::/", {"memory/memory.limit_in_bytes": 3}, 3),
        ("9:memory:/slurm/job", {"memory/slurm/job/memory.limit_in_bytes": 3}, 3),
        ("9:memory:/", {"memory/memory.limit_in_bytes": 9223372036854771712}, None),  # none, in version 1
        ("9:cpu:/a", {"memory/a/memory.limit_in_bytes": 3, "memory.max": 3}, None),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("0::/../..", {}, None),
    ],
)
def test_memory_of_a_container_or_a_batch_job(own, limits, expected, tmp_path, monkeypatch):
    """Not that of the whole computer, beside which their trainings would be killed."""
    (tmp_path / "own").write_text(f"{own}\n")
    for name, limit in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert this_machine(24.0).host_memory == (expected or whole)


def test_a_computer_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "none")
    assert this_machine(24.0).host_memory > 1e8


def test_the_machine_at_hand():
    assert this_machine(24.0) == Machine(24e9, True, "a GPU of 24 GB", this_machine().host_memory)
    assert this_machine().memory > 1e8
