"""What a container's limits leave, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from inspector.model.memory import container
from inspector.model.memory.container import left_in_container
from inspector.model.memory.memory_need import free_memory

MIB = 2**20
UNLIMITED = 9223372036854771712
"""What version 1 has for no limit."""


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """The folder of the groups; ``membership`` beside it says which one this process is in."""
    monkeypatch.setattr(container, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(container, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "groups"


def member_of(groups: Path, *lines: str) -> None:
    (groups.parent / "membership").write_text("".join(f"{line}\n" for line in lines))


def group(folder: Path, **files: object) -> None:
    """Write a group's files; double underscores stand for points."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_version_2_leaves_its_limit_less_what_is_in_use_and_cached_files_count_as_free(groups):
    member_of(groups, "0::/")
    stat = f"anon {30 * MIB}\nfile {30 * MIB}\ninactive_file {20 * MIB}\nactive_file {10 * MIB}"
    group(groups, memory__max=100 * MIB, memory__current=70 * MIB, memory__stat=stat)
    assert left_in_container() == 60 * MIB


def test_the_tightest_limit_from_the_own_group_up_counts(groups):
    member_of(groups, "0::/outer/inner")
    group(groups / "outer/inner", memory__max="max", memory__current=5 * MIB, memory__stat="active_file 0")
    group(groups / "outer", memory__max=64 * MIB, memory__current=24 * MIB, memory__stat="anon 1")
    assert left_in_container() == 40 * MIB
    group(groups / "outer/inner", memory__max=20 * MIB)
    assert left_in_container() == 15 * MIB
    group(groups / "outer/inner", memory__current=21 * MIB)
    assert left_in_container() == 0, "more than the limit may be in use for a moment"


def test_version_1_has_a_folder_of_its_own_and_the_host_s_path_may_not_be_mounted(groups):
    member_of(groups, "9:name=systemd:/", "4:memory:/docker/0123", "3:cpu,cpuacct:/docker/0123", "0::/")
    stat = f"inactive_file 1\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}"
    group(
        groups / "memory",
        memory__limit_in_bytes=50 * MIB,
        memory__usage_in_bytes=42 * MIB,
        memory__stat=stat,
    )
    assert left_in_container() == 10 * MIB
    group(groups / "memory", memory__limit_in_bytes=UNLIMITED)
    assert left_in_container() > 2**60


def test_without_a_limit_or_without_control_groups_there_is_none(groups):
    assert left_in_container() is None
    member_of(groups, "0::/user.slice/session:1.scope")
    assert left_in_container() is None
    group(groups / "user.slice/session:1.scope", memory__max="max", memory__current=1, memory__stat="anon 1")
    assert left_in_container() is None


def test_what_is_free_is_what_the_tighter_of_container_and_machine_has(groups):
    cpu = torch.device("cpu")
    member_of(groups, "0::/")
    group(groups, memory__max=100 * MIB, memory__current=70 * MIB, memory__stat="anon 1")
    assert free_memory(cpu) == 30 * MIB
    group(groups, memory__max=2**62)
    assert free_memory(cpu) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_on_cuda_what_torch_has_reserved_and_nobody_uses_is_free(monkeypatch):
    numbers = {"mem_get_info": (10, 80), "memory_reserved": 50, "memory_allocated": 45}
    for name, found in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, found=found: found)
    assert free_memory(torch.device("cuda", 0)) == 15
