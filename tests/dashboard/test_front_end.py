"""Which of Gradio's scripts a page needs first is read off the installed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboard import front_end
from dashboard.front_end import AT_ONCE, CLOCKS, PARTS, SEEN, content_of, folder_of_scripts, needed_first

TABLE = "const __vite__mapDeps=(i,m=__vite__mapDeps,d=(m.f||(m.f=[{}])))=>i.map(i=>d[i]);"


def script(*named: str, imports: str = "") -> str:
    """Return a script as Vite writes it: the table of its head, then what it imports later."""
    return TABLE.format(",".join(f'"./{name}"' for name in named)) + imports


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A front end of few scripts."""
    made = tmp_path / "assets"
    made.mkdir()
    (tmp_path / "index.html").write_text('<script type="module" crossorigin src="./assets/index-1.js"></script>')
    later = "x(()=>import(`./{}`){},__vite__mapDeps([{}]),import.meta.url)"
    files = {
        "index-1.js": script(
            "Index-2.js",
            "core-3.js",
            "a.css",
            imports=later.format("Index-2.js", "", "0,1,2") + ";" + later.format("core-3.js", "", "1"),
        ),
        "Index-2.js": script(
            *("Blocks-4.js", "Login-5.js", "b.css"),
            imports=later.format("Blocks-4.js", ";return{default:e}}", "0,2")
            + ";"
            + later.format("Login-5.js", "", "1"),
        ),
        "core-3.js": script(
            *("html-6.js", "shown.js", "video-7.js", "Plot-8.js"),
            imports="V={html:{example:()=>"
            + later.format("shown.js", "", "1")
            + ",component:()=>"
            + later.format("html-6.js", ".then(e=>e.t)", "0")
            + "},video:{component:()=>"
            + later.format("video-7.js", "", "2")
            + "},nativeplot:{component:()=>"
            + later.format("video-7.js", "", "2")
            + "},plot:{component:()=>"
            + later.format("Plot-8.js", "", "3")
            + "}}",
        ),
    }
    for name in ("Blocks-4.js", "Login-5.js", "html-6.js", "shown.js", "video-7.js", "Plot-8.js", "a.css", "b.css"):
        files[name] = ""
    for name, text in files.items():
        (made / name).write_text(text)
    (made / "PlotlyPlot-9.js").write_text("")
    return made


def test_it_is_what_draws_a_page_with_the_parts_of_the_first_view_and_no_other(folder, monkeypatch):
    monkeypatch.setattr(front_end, "PARTS", ("html", "plot", "unknown"))
    wanted = {"index-1.js", "Index-2.js", "core-3.js", "a.css", "Blocks-4.js", "b.css", "html-6.js", "Plot-8.js"}
    assert set(needed_first(folder)) == wanted | {"PlotlyPlot-9.js"}


def test_where_the_scripts_are_of_another_form_nothing_is_named_that_is_not_there(folder):
    (folder / "core-3.js").write_text("V={html:()=>import('./html-6.js')}")
    (folder / "a.css").unlink()
    assert set(needed_first(folder)) <= {path.name for path in folder.iterdir()}
    (folder / "Index-2.js").write_text((folder / "Index-2.js").read_text().replace("[0,2]", "[0,9]"))
    assert needed_first(folder) == (), "a number that the table does not have"
    (folder / "Index-2.js").unlink()
    assert needed_first(folder) == (), "a script that is not there"
    (folder.parent / "index.html").write_text("<p>Another one</p>")
    assert needed_first(folder) == ()
    assert needed_first(folder / "none") == ()


def test_the_installed_gradio_says_what_all_parts_of_the_first_view_need():
    found = needed_first()
    named = (folder_of_scripts() / next(name for name in found if name.startswith("core-"))).read_text(encoding="utf-8")
    assert all(f"{kind}:{{" in named for kind in PARTS)
    for begins in ("index-", "Blocks-", "HTML-", "PlotlyPlot-"):
        assert any(name.startswith(begins) for name in found), begins
    assert not any(name.startswith(("AltairPlot", "hls", "Login", "Video")) for name in found)
    assert 20 < len(found) < 100 and len(set(found)) == len(found)


def test_browsers_get_scripts_that_chromium_compiles_while_they_come_in_and_styles_as_they_are(folder):
    assert content_of(folder / "core-3.js") == AT_ONCE + (folder / "core-3.js").read_bytes()
    assert AT_ONCE.startswith(b"//") and AT_ONCE.count(b"\n") == 1, "a comment"
    (folder / "a.css").write_bytes(b"a {}")
    assert content_of(folder / "a.css") == b"a {}"


def test_the_clock_of_the_installed_gradio_counts_only_while_it_is_seen():
    (path,) = folder_of_scripts().glob(f"{CLOCKS}*.js")
    own, sent = path.read_bytes(), content_of(path).removeprefix(AT_ONCE)
    begun, counted = sent.split(SEEN)
    root = begun.rpartition(b"&&")[2]
    assert begun.removesuffix(root) + counted == own, "nothing else is changed"


@pytest.mark.parametrize("text", [b"", b"function a(){b(()=>{c(d,(performance.now()-e(f))/1e3),g&&a()})}"])
def test_a_clock_of_another_form_stays_as_it_is(folder, text):
    (folder / f"{CLOCKS}1.js").write_bytes(text)
    assert content_of(folder / f"{CLOCKS}1.js") == AT_ONCE + text
