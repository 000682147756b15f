import json

from flossing.experiments import condition_figure


def test_the_command_writes_figure_and_numbers(tmp_path, monkeypatch):
    figure, numbers = tmp_path / "figure.png", tmp_path / "numbers.json"
    command = ["", "--quick", "--seed", "3", "--output", str(figure), "--records", str(numbers)]
    monkeypatch.setattr("sys.argv", command)
    condition_figure.main()
    assert figure.read_bytes().startswith(b"\x89PNG")
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["seed"] == 3
    assert document["environment"]["torch"]
    assert list(document["arms"]) == ["before flossing", "after flossing"]
    for arm in document["arms"].values():
        assert len(arm["origins"]) == 3
        assert arm["horizons"] == [1, 5, 10]
        assert len(arm["log10_condition_quartiles"]) == 3
        assert len(arm["exponents"]) == 8


def test_numbers_repeat_and_flossing_changes_them():
    setting = condition_figure.QUICK
    first, second = (condition_figure.measure(setting, 0) for _ in range(2))
    values = [[arm.log_singular_values.tolist() for arm in run.values()] for run in (first, second)]
    assert values[0] == values[1]
    assert values[0][0] != values[0][1]
