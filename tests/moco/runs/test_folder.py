from moco.runs import folder as run_folder


def test_the_hash_of_the_sources_takes_in_the_compiled_part_and_leaves_out_what_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "moco/runs/folder.py"))
    for name in ("a.py", "images/b.cpp", "images/c.h", "images/built.so", "report/d.py"):
        (tmp_path / "moco" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moco" / name).write_text("1")
    seen = [run_folder.code_hash()]
    for name in ("a.py", "images/b.cpp", "images/c.h"):
        (tmp_path / "moco" / name).write_text("2")
        seen.append(run_folder.code_hash())
    assert len(set(seen)) == 4
    for name in ("images/built.so", "report/d.py"):
        (tmp_path / "moco" / name).write_text("2")
    assert run_folder.code_hash() == seen[-1]
