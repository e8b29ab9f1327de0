import os
import subprocess
import sys

import pytest

from keras_examples.files import whole_file


def test_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "new" / "folder" / "mnist-cnn.weights.h5"
    for content in (b"first", b"second"):
        with whole_file(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".mnist-cnn.")
            assert temporary.name.endswith(".weights.h5")
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def write_half(target, error):
    with whole_file(target) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError])
def test_keeps_the_old_file_if_the_body_fails(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error):
        write_half(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    place, link = tmp_path / "disk" / "blob", tmp_path / "a.weights.h5"
    link.symlink_to(place)
    with whole_file(link) as temporary:
        assert temporary.parent == place.parent
        assert temporary.suffix == ".h5"
        temporary.write_text("new")
    assert link.is_symlink()
    assert place.read_text() == "new"
    assert [*place.parent.iterdir()] == [place]


def test_refuses_a_folder(tmp_path):
    with pytest.raises(OSError, match=r"^Cannot write .*no file\. Received: path="), whole_file(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_refuses_a_device(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no file"), whole_file(pipe):
        pass


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "a.txt"
    with pytest.raises(OSError, match=r"^Cannot write a\.txt: .*Received: path=.*Choose"), whole_file(target):
        pass


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")


def test_disk_full(tmp_path):
    pytest.importorskip("resource", reason="a file-size limit stands in for the full disk")
    target = tmp_path / "a.weights.h5"
    target.write_text("old")
    script = f"""
import resource
from keras_examples.files import whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file({str(target)!r}) as temporary:
        temporary.write_bytes(bytes(2000))
except OSError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Cannot write a.weights.h5: File too large. Received: path=")
    assert result.stdout.count("\n") == 1
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
