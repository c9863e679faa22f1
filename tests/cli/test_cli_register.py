"""``mlsync register``, ``unregister`` and ``export`` as a person types them: against a server, and without one."""

from __future__ import annotations

import subprocess

import pytest

CHAMPION = ("register", "--model", "yolo", "--alias", "champion", "--allow-unproved")


def test_a_version_is_registered_shown_and_let_go(saved, mlflow):
    """The line says what it is called there; the lists say so too; a second time it was there already."""
    server = ("--tracking-uri", mlflow.url)
    said = saved.good(*CHAMPION, *server).out
    assert "yolo: version 2 (weights/last.pt) is models:/yolo/1, yolo@champion at" in " ".join(said.split())
    assert "was already models:/yolo/1" in " ".join(saved.good(*CHAMPION, *server).out.split())
    assert "registered as models:/yolo/1" in saved.good("versions").out
    assert "registered as models:/yolo/1" in saved.good("show").out
    assert "mlsync unregister 2" in " ".join(saved.run("unpin", "2").err.split())
    assert saved.run("unregister", "1").status == 15
    done = saved.run("unregister", "2", "--delete", *server)
    assert (done.status, "yolo@champion" in done.err) == (94, True)
    refused = saved.run("unregister", "2", "--delete", MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert (refused.status, f"--tracking-uri {mlflow.url}" in " ".join(refused.err.split())) == (2, True)
    assert "left as it is" in saved.good("unregister", "2").out
    assert list(mlflow.versions("yolo")) == [1]
    assert "registered" not in saved.good("versions").out


def test_what_the_configuration_says_is_used(saved, mlflow):
    """Server, model, alias, path, token: no option is needed."""
    mlflow.token = "of-this-server"
    token = saved.base / "token"
    token.write_text(mlflow.token + "\n")
    token.chmod(0o600)
    saved.configure(
        f'[proof]\ndevice = "none"\n[mlflow]\ntracking_uri = "{mlflow.url}"\nmodel = "llm"\nalias = "champion"\n'
        f'path = "weights/*.pt"\ntoken_file = "{token}"\n'
    )
    saved.good("register", "--allow-unproved")
    assert mlflow.aliases("llm") == {"champion": 1}
    assert mlflow.tags("llm", 1)["mlsync.path"] == "weights/last.pt"
    token.chmod(0o644)
    assert saved.run("register").status == 20
    saved.configure('[mlflow]\nalias = "latest"\n')
    done = saved.run("register")
    assert (done.status, "keeps the alias 'latest'" in " ".join(done.err.split())) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--model", "a/b"], 2, "no model with a slash or colon in its name"),
        (["--alias", "v2"], 2, "keeps aliases such as 'v2' for the numbers of versions"),
        (["--tag", "mlsync.run=x"], 2, "have meanings of their own"),
        (["--tracking-uri", "sqlite:///m.db"], 2, "mlflow server --backend-store-uri"),
        (["--tracking-uri", "databricks"], 2, "keeps models itself"),
        (["--tracking-uri", "http://me:secret-word@h"], 2, "holds credentials"),
        (["--tracking-uri", "http://127.0.0.1:1", "--allow-unproved"], 115, "Connection refused"),
        ([], 2, "no MLflow server is named"),
        (["9", "--tracking-uri", "http://127.0.0.1:1"], 15, "no version 9"),
        (["2", "--tracking-uri", "http://127.0.0.1:1"], 79, "--allow-unproved goes on without"),
        (["2", "--tracking-uri", "http://127.0.0.1:1", "--path", "nobody.pt"], 19, "nothing at nobody.pt"),
    ],
)
def test_what_cannot_be_registered_says_why(saved, arguments, status, said):
    """Each has its status and a message, and nothing is held."""
    saved.configure('[proof]\nrequire = 4\non_unavailable = "commit"\ndevice = "none"\n')
    (saved.training / "results.csv").write_text("epoch,loss\n9,0.1\n")
    done = saved.run("register", *arguments)
    assert (done.status, said in " ".join(done.err.split())) == (status, True), done
    assert "secret-word" not in done.err + done.out
    assert "registered" not in saved.good("versions").out


def test_a_wrong_token_is_told_and_not_repeated(saved, mlflow):
    """The server's 401 is a status of its own; the token is in no output, with -vv neither."""
    mlflow.token = "right"
    more = ("--tracking-uri", mlflow.url, "-vv")
    done = saved.run(*CHAMPION, *more, MLFLOW_TRACKING_TOKEN="wrong-and-secret")
    assert (done.status, "does not accept the token" in done.err) == (116, True)
    assert "wrong-and-secret" not in done.err + done.out
    saved.good(*CHAMPION, *more, MLFLOW_TRACKING_TOKEN="right")


def test_copies_are_exported(saved):
    """To a directory, with sums; the same again writes nothing, something else is not overwritten."""
    target = saved.base / "copies"
    saved.good("export", "2", "--to", target)
    subprocess.run(["sha256sum", "-c", "--quiet", "last.pt.sha256"], cwd=target / "weights", check=True)
    assert "was there" in saved.good("export", "2", "--to", target).out
    (target / "weights/last.pt").write_text("mine")
    assert saved.run("export", "2", "--to", target).status == 117
    assert (target / "weights/last.pt").read_text() == "mine"
    saved.good("export", "2", "--to", target, "--force")
    done = saved.run("export", "2", "--to", saved.repository / "x")
    assert (done.status, "inside the repository" in done.err) == (2, True)
    for place, said in (("hf://a/b", "hf upload"), ("gs://a/b", "no place for an export")):
        done = saved.run("export", "2", "--to", place)
        assert (done.status, said in " ".join(done.err.split())) == (2, True)
