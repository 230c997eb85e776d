from pathlib import Path

from pipeline.report.facts import opened_by, run_link


def test_a_servers_runs_are_linked():
    assert run_link("https://mlflow.example:5000/team/", "ab12") == ("https://mlflow.example:5000/team/#/runs/ab12")
    assert run_link("http://127.0.0.1:5000", "ab12") == "http://127.0.0.1:5000/#/runs/ab12"
    for store in (
        "sqlite:////x/mlflow.db",
        "postgresql://anna:secret@db/mlflow",
        "databricks",
        "javascript:x",
    ):
        assert run_link(store, "ab12") == ""


def test_the_own_database_is_opened_by_a_command(tmp_path):
    command = "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert opened_by(f"sqlite:///{tmp_path.resolve()}/mlflow.db", tmp_path) == command
    experiment = tmp_path / ".dvc" / "tmp" / "exps" / "x1"
    experiment.mkdir(parents=True)
    assert opened_by(f"sqlite:///{tmp_path.resolve()}/mlflow.db", experiment) == command
    assert opened_by("postgresql://anna:secret@db/mlflow", tmp_path) == ""
    assert opened_by("sqlite:////elsewhere/mlflow.db", Path()) == ""
