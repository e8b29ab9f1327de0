import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT
from PIL import Image

from cli import main


def shell(*arguments, cwd, **options):
    """Calls the real command line in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS")}
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, **options,
    )  # fmt: skip


def commands(group, path=()):
    for name, child in group.commands.items():
        yield (*path, name), child
        if hasattr(child, "commands"):
            yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands(main)], ids=" ".join)
def test_every_command_has_help(path):
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


LEAVES = {" ".join(path): child for path, child in commands(main) if not hasattr(child, "commands")}


@pytest.mark.parametrize("name", LEAVES)
def test_help_has_one_example_of_that_command_that_can_be_parsed(name):
    output = CliRunner().invoke(main, [*name.split(), "--help"]).output
    (example,) = [line.strip() for line in output.splitlines() if "python cli.py" in line]
    assert example.startswith(f"python cli.py {name}")
    LEAVES[name].make_context(name, shlex.split(example.removeprefix(f"python cli.py {name}")))


@pytest.mark.parametrize("path", [(), *(path for path, _ in commands(main))], ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing_off(path):
    output = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*path, "--help"]).output
    assert max(map(len, output.splitlines())) <= 80
    assert "..." not in output.replace("[ARGS]...", "")


def test_help_shows_commands_and_options_in_the_order_of_use():
    lines = CliRunner().invoke(main, ["mnist", "--help"]).output.splitlines()
    headings = "Commands Model Training Data Run Device Options".split()
    places = [lines.index(f"{heading}:") for heading in headings]
    assert places == sorted(places)
    assert [line.split()[0] for line in lines[places[0] + 1 :][:4]] == ["fit", "evaluate", "save", "sample"]


@pytest.mark.parametrize("name", ["keras-examples", "python -m keras_examples", "python cli.py"])
def test_the_program_calls_itself_as_it_was_called(tmp_path, name):
    program = [str(Path(sys.executable).parent / name)]
    if name.startswith("python "):
        program = [sys.executable, *name.removeprefix("python ").split()]
    called = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    lines = called([*program, "mnist", "fit", "-h"]).stdout.splitlines()
    assert lines[0] == f"Usage: {name} mnist fit [OPTIONS]"
    assert f"  {name} mnist fit --arch cnn --epochs 10" in lines
    nothing = ["--data-dir", str(tmp_path)]
    message = called([*program, "datasets", "verify", "mnist", *nothing]).stderr
    assert f"Run `{name} datasets fetch mnist --data-dir {tmp_path}`." in message


def test_help_needs_neither_keras_nor_numpy():
    code = (
        "import sys, cli; cli.main(['mnist', 'fit', '--help'], standalone_mode=False);"
        "print([name for name in ('keras', 'numpy', 'torch', 'PIL', 'h5py', 'matplotlib') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mnist --epochs 0", "0 is not in the range 1<=x<=1000000000"),
        ("mnist --epochs 99999999999999999999", "99999999999999999999 is not in the range 1<=x<=1000000000"),
        ("mnist --epochs -1", "-1 is not in the range 1<=x<=1000000000"),
        ("mnist --epochs abc", "'abc' is not a valid integer"),
        ("mnist --batch-size 0", "0 is not in the range 1<=x<=1000000000"),
        ("mnist --learning-rate nan", "nan is not in the range 0<x<inf"),
        ("mnist --learning-rate 0", "0.0 is not in the range 0<x<inf"),
        ("mnist --learning-rate inf", "inf is not in the range 0<x<inf"),
        ("mnist --validation-split 1", "1.0 is not in the range 0<=x<1"),
        ("mnist --validation-split nan", "nan is not in the range 0<=x<1"),
        ("mnist --hidden-units ''", "'' is not a list of whole numbers"),
        ("mnist --arch transformer", "'transformer' is not one of 'linear', 'mlp', 'cnn'"),
        ("mnist --hidden-units 128,x", "'128,x' is not a list of whole numbers"),
        ("mnist --hidden-units 0", "'0' is not a list of whole numbers"),
        (
            "mnist --arch cnn evaluate",
            "A command comes before its options: main mnist evaluate …",
        ),
        ("mnist --seed -1", "-1 is not in the range"),
        ("mnist --data fake", "'fake' is not one of 'auto', 'real', 'synthetic'"),
        ("mnist --device tpu", "'tpu' is not one of"),
        ("mnist save", "Missing argument 'PATH'"),
        ("mnist save x.keras --names tch", "--names is for .safetensors files. Received: x.keras."),
        ("datasets verify imagenet", "'imagenet' is not one of"),
        ("mnits", "No such command 'mnits'. Did you mean 'mnist'?"),
        ("mnist evalute", "No such command 'evalute'. Did you mean 'evaluate'?"),
        ("fit", "No such command 'fit'. Did you mean `main mnist fit`?"),
        ("mnist-cnn", "No such command 'mnist-cnn'. Did you mean `main mnist --arch cnn`?"),
        ("mnist cnn", "No such command 'cnn'. Did you mean `main mnist fit --arch cnn`?"),
        ("datasets mnist", "No such command 'mnist'. Did you mean `main datasets fetch mnist`?"),
        ("help", "No such command 'help'. Did you mean `main --help`?"),
        ("mnist evaluate cnn.keras", "Unexpected argument 'cnn.keras'. Did you mean --weights cnn.keras?"),
        ("mnist cnn.weights.h5", "Did you mean `main mnist fit --load cnn.weights.h5`?"),
        ("mnist sample my.PNG", "Unexpected argument 'my.PNG'. Did you mean --image my.PNG?"),
        ("mnist evaluate my.png", "Unexpected argument 'my.png'. Did you mean `main mnist sample --image my.png`?"),
        ("charrnn sample 'To be'", "Unexpected argument 'To be'. Did you mean --prompt 'To be'?"),
        ("charrnn ROMEO:", "No such command 'ROMEO:'. Did you mean `main charrnn sample --prompt ROMEO:`?"),
        ("charrnn evalute", "No such command 'evalute'. Did you mean 'evaluate'?"),
        ("mnist --epoch 3", "No such option '--epoch'. Did you mean '--epochs'?"),
        ("mnist -epochs 3", "No such option '-e'. Did you mean '--epochs'?"),
        ("mnist --sa x", "No such option '--sa'. Did you mean '--save' or '--save-config'?"),
        ("cifar --hidden_units 9", "No such option '--hidden_units'. Did you mean '--hidden-units'?"),
        ("autoencoder --arch cnn", "No such option '--arch'."),
        ("mnist evaluate --epochs 3", "No such option '--epochs'. --epochs is an option of fit."),
        ("charrnn sample --unit 3", "No such option '--unit'. --units is an option of fit."),
        ("datasets --data-dir x", "--data-dir is an option of list, fetch and verify."),
        ("--arch cnn", "No such option '--arch'. --arch is an option of mnist and cifar."),
        ("mnist --lr 0", "0.0 is not in the range 0<x<inf"),
        ("mnist --arch CNN --optimizer ADAM --epochs 0", "0 is not in the range 1<=x<=1000000000"),
        ("devices cpu", "Unexpected argument 'cpu'. Options of devices: --backend,"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(run, tmp_path, arguments, message):
    output = run(arguments, code=2).output
    assert message in output.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mnist --data synthetic --batch-size 100000", "The batch is larger than the training set of 9500 samples."),
        ("mnist --data synthetic --hidden-units 9", "mnist-linear has no such size. Received: --hidden-units"),
        ("mnist --data synthetic --load missing.weights.h5", "No such weights file. Received: path="),
        ("mnist --data synthetic --load .", ". is a folder. Received: path='.'. Give a weights file."),
        (
            "mnist --data synthetic --save a.safetensors --save-config ./a.safetensors",
            "Two files of one name. Received: --save and --save-config a.safetensors.",
        ),
        ("mnist --data synthetic --save weights.pt", "Unknown weights format. Received: path='weights.pt'."),
        (
            "mnist --data real --data-dir missing",
            "Cannot download train-images-idx3-ubyte.gz: ",
        ),
        ("mnist --device cuda", "Device cuda cannot be used. Received: device='cuda'."),
        ("mnist evaluate --data synthetic", "No trained weights for mnist-linear."),
        ("mnist sample --data synthetic", "No trained weights for mnist-linear."),
        ("mnist --resume", "Received: weights/mnist-linear.checkpoint.h5 and weights/mnist-linear-synthetic."),
        ("datasets verify mnist", "Run `python cli.py datasets fetch mnist`"),
    ],
)
def test_work_that_fails_is_one_line_and_exit_status_1(run, tmp_path, arguments, message):
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    result = run(arguments, code=1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert "Received: " in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk at hand")
def test_what_the_system_alone_says_is_one_line_too():
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / "cli.py"), "greeks", "--json"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: Cannot use a file: No space left on device. Received: ")


def test_a_standard_output_that_is_closed_stays_unread(tmp_path):
    command = f"{sys.executable} {ROOT / 'cli.py'} mnist --data synthetic --epochs 1 --limit 640 >&-"
    result = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "weights" / "mnist-linear-synthetic.weights.h5").is_file()


def test_limits_that_keras_has_for_debugging_cut_nothing_short(tmp_path):
    limits = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "2"}
    command = [sys.executable, ROOT / "cli.py", *"mnist --data synthetic --epochs 2 --limit 640 --json".split()]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | limits, capture_output=True, text=True, timeout=60)
    assert "2 epochs of 5 steps" in result.stderr
    report = json.loads(result.stdout)
    assert (report["epochs"], sum(map(sum, report["confusion"]))) == (2, 2000)


def test_traceback_shows_where_an_error_came_from(tmp_path):
    result = shell("mnist", "--data", "real", "--data-dir", "missing", "--traceback", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_fit_says_synthetic_first_and_last(run, tmp_path):
    lines = run("mnist --data synthetic --epochs 2").output.splitlines()
    assert lines[:2] == [
        "mnist-linear on drawn digits (synthetic data), torch on cpu",
        "7,850 parameters, 9,500 training samples, 2 epochs of 75 steps",
    ]
    number = r"[\d,.]+"
    for line, epoch in zip(lines[2:4], (1, 2)):
        pattern = rf"epoch {epoch}/2  accuracy {number} \(val {number}\)  loss {number} \(val {number}\)  {number} s"
        assert re.fullmatch(pattern, line)
    assert re.fullmatch(rf"mnist-linear \(synthetic data, cpu\): test loss {number}, accuracy {number}%", lines[4])
    assert re.fullmatch(rf"2 epochs in {number} s, {number} samples/s", lines[5])
    assert lines[6:] == [
        "weights in weights/mnist-linear-synthetic.weights.h5",
        "try: python cli.py mnist sample --data synthetic",
    ]
    assert max(map(len, lines)) <= 80
    assert (tmp_path / "weights" / "mnist-linear-synthetic.weights.h5").is_file()
    assert run("mnist --data synthetic --dry-run").output.splitlines()[-1] == "try: the same command without --dry-run"


@pytest.mark.parametrize(
    "options",
    [
        "cifar --arch dense --data synthetic",
        "cifar --data synthetic --save 'a folder/b.keras'",
        "autoencoder --data synthetic",
        "charrnn --data synthetic --units 8",
        "charrnn --text song.txt --units 8",
    ],
)
def test_a_report_fits_80_columns_and_what_it_says_to_type_next_shows_the_model_of_the_run(run, tmp_path, options):
    (tmp_path / "song.txt").write_text("la la la, li li li\n" * 300)
    lines = run(f"{options} --epochs 1 --limit 40 --batch-size 4").output.splitlines()
    assert max(map(len, lines)) <= 80
    *_, weights, line = lines
    output = run(line.removeprefix("try: python cli.py ")).output
    assert weights.removeprefix("weights in ") in output or "--weights" in line


def test_without_data_and_network_the_digits_are_synthetic_and_loudly_so(run, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    result = run("mnist --epochs 1 --limit 500")
    line = "Could not download mnist; using made-up data (drawn digits). Later: `python cli.py datasets fetch mnist`"
    assert result.stderr.splitlines() == [line]
    assert "(synthetic data)" in result.stdout.splitlines()[0]


def test_json_is_the_last_line_and_the_report_goes_to_standard_error(run, linear):
    for command in ("mnist --data synthetic --epochs 1 --limit 300", "mnist evaluate --data synthetic"):
        result = run(f"{command} --json")
        (line,) = result.stdout.splitlines()
        report = json.loads(line)
        keys = "example data loss accuracy samples epochs seconds device backend weights".split()
        assert set(keys) <= set(report)
        assert report["example"] == "mnist-linear"
        assert report["data"] == "synthetic"
        assert report["backend"] == "torch"
        assert "mnist-linear" in result.stderr


def test_evaluate_prints_each_class_and_the_confusion(run, linear):
    lines = run("mnist evaluate --data synthetic").output.splitlines()
    assert lines[1] == "weights in weights/mnist-linear-synthetic.weights.h5"
    table = [line.split() for line in lines[-10:]]
    assert [row[0] for row in table] == list("0123456789")
    assert all(row[1].endswith("%") and len(row) == 12 for row in table)
    assert sum(int(count) for row in table for count in row[2:]) == 2000


@pytest.mark.parametrize("name", ["copy.weights.h5", "copy.keras", "copy.safetensors", "COPY.WEIGHTS.H5", "COPY.KERAS"])
def test_save_writes_what_evaluate_reads(run, linear, name):
    before = json.loads(run("mnist evaluate --data synthetic --json").stdout)
    run(f"mnist save {name} --weights {linear}")
    after = json.loads(run(f"mnist evaluate --data synthetic --weights {name} --json").stdout)
    assert after["confusion"] == before["confusion"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mnist evaluate --data synthetic --arch mlp --weights {}", "they are of mnist-linear, asked for mnist-mlp"),
        ("mnist --data synthetic --arch mlp --load {}", "they are of mnist-linear, asked for mnist-mlp"),
        (f"mnist sample --image {ROOT}/setup.cfg", "Not an image that can be read. Received: image="),
        ("mnist sample --image missing.png", "No such image. Received: image="),
        ("mnist save copy.pt", "Unknown weights format."),
        ("mnist save /proc/copy.keras", "Cannot write to /proc"),
        ("mnist --data synthetic --save-config /proc/run.toml", "Cannot write to /proc"),
        ("mnist sample --data synthetic --output-dir /proc", "Cannot write to /proc"),
    ],
)
def test_bad_files_are_one_line(run, linear, arguments, message):
    (line,) = run(arguments.format(linear), code=1).stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line


def test_weights_that_are_not_hdf5(run, linear):
    linear.write_text("not HDF5")
    (line,) = run("mnist evaluate --data synthetic", code=1).stderr.splitlines()
    assert line.startswith("Error: Not a weights file")


def test_sample_draws_digits_in_the_terminal_and_as_a_picture(run, linear, tmp_path):
    output = run("mnist sample --data synthetic --count 6 --seed 3").output
    assert sum(character in "▘▝▀▖▌▞▛▗▚▐▜▄▙▟█" for character in output) > 100
    assert "of 6 right" in output
    with Image.open(tmp_path / "samples" / "mnist-linear-synthetic.png") as picture:
        assert picture.width > 600
    assert run("mnist sample --data synthetic --count 6 --seed 3").output == output
    assert run("mnist sample --data synthetic --count 6 --seed 4").output != output


def test_an_image_of_ones_own_gets_ten_probabilities(run, linear, tmp_path):
    from keras_examples.data.standins import synthetic_digits

    x, y, *_ = synthetic_digits(20, 1)
    digit = int(np.flatnonzero(y == 0)[0])
    Image.fromarray(255 - x[digit]).resize((300, 300)).save(tmp_path / "zero.png")
    report = json.loads(run("mnist sample --image zero.png --json").stdout)
    (entry,) = report["images"]
    probabilities = entry["probabilities"]
    assert list(probabilities) == list("0123456789")
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert max(probabilities, key=probabilities.get) == entry["predicted"] == "0"
    assert entry["probability"] == probabilities["0"]
    output = run("mnist sample --image zero.png").output
    assert f"zero.png reads 0, {100 * entry['probability']:.0f} %" in output.splitlines()
    assert sum(character in "▘▝▀▖▌▞▛▗▚▐▜▄▙▟" for character in output) > 20
    with Image.open(tmp_path / report["picture"]) as picture:
        assert picture.width > 300


def test_several_images_and_folders_of_them(run, linear, tmp_path):
    from keras_examples.data.standins import synthetic_digits

    (tmp_path / "photos").mkdir()
    for index, digit in enumerate(synthetic_digits(3, 1)[0]):
        name = "alone.png" if index == 2 else f"photos/{index}.png"
        Image.fromarray(255 - digit).resize((300, 300)).save(tmp_path / name)
    report = json.loads(run("mnist sample --image alone.png --image photos --json").stdout)
    assert [entry["image"] for entry in report["images"]] == ["alone.png", "photos/0.png", "photos/1.png"]
    assert report["failed"] == 0
    Image.new("L", (300, 300), 200).save(tmp_path / "photos" / "blank.png")
    result = run("mnist sample --image photos --json", code=1)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "There is no stroke in the image. Received: image='photos/blank.png'." in line
    assert sum(" reads " in line for line in result.stderr.splitlines()) == 2
    report = json.loads(result.stdout)
    assert ["error" in entry for entry in report["images"]] == [False, False, True]
    (line,) = run("mnist sample --image photos/blank.png", code=1).stderr.splitlines()
    assert line.startswith("Error: There is no stroke in the image.")


def test_devices_says_what_and_why(run):
    report = json.loads(run("devices --json").stdout)
    assert report["name"] in ("cpu", "cuda", "mps")
    assert report["reason"] in run("devices").output


def test_datasets_lists_what_is_missing(run):
    assert run("datasets list").output.splitlines()[0] == "mnist: missing"
    report = json.loads(run("datasets list --json").stdout)
    assert {name: entry["state"] for name, entry in report.items()} == dict.fromkeys(
        ("mnist", "cifar10", "tinyshakespeare"), "missing"
    )


def test_the_documented_command_in_a_process_of_its_own(tmp_path):
    result = shell("mnist", "--arch", "mlp", "--epochs", "1", "--data", "synthetic", "--limit", "512", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("mnist-mlp on drawn digits (synthetic data)")


def on_terminal(arguments, cwd, environment=os.environ, stdout=None):
    """What a command shows on a terminal, which its standard output is too unless it goes elsewhere."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *arguments.split()],
        cwd=cwd, stdout=stdout or theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while part := os.read(ours, 4096):
            output += part
    assert process.wait() == 0, output
    return output.decode()


@pytest.mark.parametrize("no_color", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_on_a_terminal_there_are_progress_bars_without_colour_where_none_is_wanted(tmp_path, no_color):
    output = on_terminal("mnist --data synthetic --epochs 2 --limit 256", tmp_path, os.environ | no_color)
    assert ("\x1b[" in output) == (not no_color)
    measuring = output.partition("Epoch 2/2")[2].partition("val_loss")[2]
    assert "8/8" in measuring
    assert "━━━" in measuring


def test_measuring_text_has_a_bar_on_the_terminal_but_neither_in_json_nor_in_a_pipe(run, tmp_path, trained_text):
    command = f"charrnn evaluate --data synthetic --weights {trained_text}"
    with (tmp_path / "report.json").open("w") as file:
        output = on_terminal(f"{command} --json", tmp_path, stdout=file)
    assert "━" in output
    assert json.loads((tmp_path / "report.json").read_text())["example"] == "charrnn"
    result = run(command)
    assert result.stderr == ""
    assert "━" not in result.stdout


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *"mnist --data synthetic --epochs 100000".split()],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not process.stdout.readline().startswith("epoch 2/"):
        assert process.poll() is None
    time.sleep(0.05)  # into the epoch
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == ""
    checkpoint = "weights/mnist-linear-synthetic.checkpoint.h5"
    first, *others = stdout.splitlines()[-3:]
    assert first.startswith("interrupted after ")
    assert others == [f"checkpoint in {checkpoint}", "try: the same command with --resume"]
    assert (tmp_path / checkpoint).is_file()
    assert not list(tmp_path.glob("weights/*.weights.h5"))


@pytest.mark.parametrize("module", ["numpy", "torch", "keras.src"])
def test_ctrl_c_amid_an_import_is_quiet(tmp_path, module):
    code = f"""
import os, runpy, signal, sys
def press(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(press)
sys.argv = ["cli.py", "mnist", "--data", "synthetic"]
runpy.run_path({str(ROOT / "cli.py")!r}, run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "Interrupted.\n")


def test_ctrl_c_before_the_installed_program_takes_over_is_quiet():
    code = "import os, signal, sys; sys.argv = ['bin/keras-examples']; import cli; os.kill(os.getpid(), signal.SIGINT)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "")


@pytest.fixture(scope="session")
def trained_text(tmp_path_factory):
    """Weights of a small charrnn after a few steps on the synthetic text."""
    from keras_examples.training import fit

    path = tmp_path_factory.mktemp("weights") / "charrnn.weights.h5"
    fit("charrnn", data="synthetic", epochs=1, limit=640, sizes={"units": 32}, save=path)
    return path


def test_text_streams_and_the_same_seed_gives_the_same_text(run, trained_text):
    sample = f"charrnn sample --weights {trained_text} --length 40"
    one = run(f"{sample} --prompt 'The ' --seed 1").output
    assert one.startswith("The ")
    assert len(one) == 4 + 40 + 1
    assert run(f"{sample} --prompt 'The ' --seed 1").output == one
    assert run(f"{sample} --prompt 'The ' --seed 2").output != one
    likeliest = run(f"{sample} --temperature 0").output
    assert run(f"{sample} --top-k 1").output == likeliest
    assert run(f"{sample} --top-p 1e-9").output == likeliest
    report = json.loads(run(f"{sample} --count 2 --json").stdout)
    assert [len(text) for text in report["texts"]] == [40, 40]
    report = json.loads(run(f"{sample} --count 2 --length 10000 --stop e --json").stdout)
    assert [text.index("e") + 1 for text in report["texts"]] == [len(text) for text in report["texts"]]


def test_a_prompt_from_standard_input(tmp_path, trained_text):
    arguments = ["charrnn", "sample", "--weights", str(trained_text), "--length", "5", "--prompt", "-"]
    result = shell(*arguments, cwd=tmp_path, input="def ")
    assert (result.returncode, result.stdout[:4], len(result.stdout)) == (0, "def ", 10)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ябяабяаб"),
        ({"PYTHONIOENCODING": "cp1252"}, "????????"),
    ],
    ids=["what is not said is UTF-8", "what is said counts"],
)
def test_any_character_goes_to_a_file(tmp_path, environment, expected):
    from keras_examples import char_lstm, weights

    model = char_lstm(3, 4)
    weights.write(tmp_path / "small.safetensors", model, {"example": "charrnn", "vocabulary": "абя"})
    command = [sys.executable, str(ROOT / "cli.py"), "charrnn", "sample", "--weights", "small.safetensors"]
    result = subprocess.run(
        [*command, "--prompt", "-", "--length", "5"],
        cwd=tmp_path, env=os.environ | environment, input="ябя".encode(), capture_output=True,
    )  # fmt: skip
    if expected[0] == "?":  # what is typed in another encoding is no text that the model knows
        assert b"Character outside the vocabulary" in result.stderr
        result = subprocess.run(
            [*command, "--length", "8"], cwd=tmp_path, env=os.environ | environment, capture_output=True
        )
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(result.stdout.decode().strip()) == 8
    assert set(result.stdout.decode().strip()) <= set(expected)


def test_a_closed_pipe_ends_quietly(tmp_path, trained_text):
    command = f"{sys.executable} {ROOT}/cli.py charrnn sample --weights {trained_text} --length 100000 | head -c 100"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert (result.returncode, len(result.stdout), result.stderr) == (0, 100, b"")


def test_ctrl_c_ends_the_stream(tmp_path, trained_text):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "charrnn", "sample", "--weights", trained_text, "--length", "10000000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.read(50)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr.strip() == "Interrupted."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sample --prompt 日本", "Received: '日' (U+65E5) at position 0."),
        ("sample --temperature -1", "Temperature must be finite and not negative. Received: temperature=-1.0."),
        ("sample --top-p 1.5", "No such nucleus. Received: top_p=1.5."),
        ("sample --stop 日本", "Received: '日' (U+65E5) at position 0."),
        ("sample --temperature nan", "Temperature must be finite and not negative. Received: temperature=nan."),
        ("evaluate --text other.txt", "Weights of another vocabulary:"),
        ("evaluate --text empty.txt", "is empty. Received: path='empty.txt'"),
        ("evaluate --text latin.txt", "at byte 3"),
        ("evaluate --text .", "is a folder. Received: path='.'"),
        ("evaluate --text missing.txt", "does not exist. Received: path='missing.txt'"),
    ],
)
def test_bad_text_is_one_line(run, trained_text, tmp_path, arguments, message):
    (tmp_path / "other.txt").write_text("another text\n" * 400)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1") * 900)
    (line,) = run(f"charrnn {arguments} --weights {trained_text}", code=1).stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line


@pytest.mark.parametrize(("option", "value"), [("--top-k", 0), ("--length", 0), ("--count", 0)])
def test_counts_of_nothing(run, option, value):
    assert "0 is not in the range 1<=x<=1000000000" in run(f"charrnn sample {option} {value}", code=2).output


def test_a_text_shorter_than_a_sequence(run, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    message = run("charrnn --text short.txt", code=1).stderr
    assert "The training text is shorter than a sequence. Received: 8 characters, sequence length 180." in message


def test_a_text_of_ones_own(run, tmp_path):
    song = "la la la, li li li\n" * 300
    (tmp_path / "song.txt").write_text(song)
    lines = run("charrnn --text song.txt --units 16 --epochs 2 --batch-size 4").output.splitlines()
    assert lines[0].startswith("charrnn on song (real data)")
    assert all(name in lines[2] for name in ("accuracy", "loss"))
    assert lines[4].startswith("charrnn (real data, cpu): test loss ")
    assert lines[4].endswith(" nats a character")
    assert [path.name for path in tmp_path.glob("weights/*")] == [
        f"charrnn-song-{hashlib.sha256(song.encode()).hexdigest()[:8]}.weights.h5"
    ]
    assert "nats a character" in run("charrnn evaluate --text song.txt").output
    assert set(run("charrnn sample --text song.txt --length 30").stdout) <= set("la i,\n")
    (tmp_path / "tune.txt").write_text("na na na, ni ni ni\n" * 300)
    assert "`python cli.py charrnn --text PATH`" in run("charrnn sample --text tune.txt", code=1).stderr
    assert "missing.txt does not exist." in run("charrnn sample --text missing.txt", code=1).stderr


def test_texts_of_the_same_name_share_nothing(run, tmp_path):
    for folder, text in (("a", "la la la, li li li\n"), ("b", "na na na, ni ni ni\n")):
        (tmp_path / folder).mkdir()
        for name in ("novel.txt", "synthetic.txt"):
            (tmp_path / folder / name).write_text(text * 300)
            run(f"charrnn --text {folder}/{name} --units 8 --epochs 1 --batch-size 4")
    names = [path.name for path in tmp_path.glob("weights/*")]
    assert len(names) == 4
    assert "charrnn-synthetic.weights.h5" not in names
    assert set(run("charrnn sample --text b/novel.txt --length 30").stdout) <= set("na i,\n")


def test_autoencoder_draws_pairs_and_single_images(run, tmp_path):
    assert "PSNR" in run("autoencoder --data synthetic --epochs 1 --limit 500").output
    lines = run("autoencoder evaluate --data synthetic").output.splitlines()
    assert "least possible for this architecture" in lines[3]
    assert "correlation red" in lines[5]
    run("autoencoder sample --data synthetic --count 3 --output-dir pictures")
    names = [f"{kind}_{index}.png" for kind in ("input", "output") for index in range(3)]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["autoencoder-synthetic.png", *names]
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as image:
            assert image.size == (32, 32)
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    report = json.loads(run("autoencoder sample --image photo.jpg --image photo.jpg --json").stdout)
    assert len(report["errors"]) == len(report["images"]) == 2
    with Image.open(tmp_path / "samples" / "input_1.png") as image:
        assert image.getpixel((5, 5))[:2] > (240, 10)


def test_cifar_names_its_classes_and_takes_a_photo(run, tmp_path):
    run("cifar --data synthetic --epochs 1 --limit 500")
    assert "circle" in run("cifar evaluate --data synthetic").output
    assert "picture in samples/cifar-cnn-synthetic.png" in run("cifar sample --data synthetic").output
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    stand_ins = "weights/cifar-cnn-synthetic.weights.h5"
    report = json.loads(run(f"cifar sample --image photo.jpg --weights {stand_ins} --json").stdout)
    assert "circle" in report["images"][0]["probabilities"]


@pytest.mark.realdata
def test_real_digits_are_found_and_named(run):
    output = run(f"mnist --data real --data-dir {ROOT / 'datasets'} --epochs 1 --limit 6000").output
    assert "synthetic" not in output
    assert "weights in weights/mnist-linear.weights.h5" in output


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("arch", "epochs", "least"), [("linear", 20, 0.92), ("mlp", 4, 0.97), ("cnn", 1, 0.98)])
def test_recipes_on_real_mnist(run, arch, epochs, least):
    real = f"--data real --data-dir {ROOT / 'datasets'}"
    report = json.loads(run(f"mnist --arch {arch} --epochs {epochs} {real} --json").stdout)
    assert report["accuracy"] >= least


@pytest.mark.slow
def test_cnn_on_synthetic_digits(run):
    report = json.loads(run("mnist --arch cnn --epochs 4 --data synthetic --json").stdout)
    assert report["accuracy"] > 0.95
