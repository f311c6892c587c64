//! The table: what lies on disk and which calls are made. `$W` in an input stands for the work directory.

use std::path::Path;

use postern_tools::Access;
use serde_json::{Value, json};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) fixtures: Vec<Fixture>,
    pub(crate) roots: Vec<(&'static str, Access)>,
    pub(crate) compare: Compare,
    calls: Vec<(&'static str, Value)>,
}

#[derive(Clone, Copy)]
pub(crate) enum Compare {
    Exactly,
    AsLines,
}

pub(crate) enum Fixture {
    File(&'static str, Vec<u8>),
    Directory(&'static str),
    Link(&'static str, &'static str),
    Pipe(&'static str),
    Mode(&'static str, u32),
}

impl Scenario {
    fn new(name: &'static str, fixtures: Vec<Fixture>, calls: Vec<(&'static str, Value)>) -> Self {
        Self { name, fixtures, roots: Vec::new(), compare: Compare::Exactly, calls }
    }

    pub(crate) fn calls(&self, workdir: &Path) -> Vec<(String, Value)> {
        let place = workdir.display().to_string();
        let put = |input: &Value| serde_json::from_str(&input.to_string().replace("$W", &place)).expect("still JSON");
        self.calls.iter().map(|(name, input)| ((*name).to_owned(), put(input))).collect()
    }
}

fn file(path: &'static str, text: &str) -> Fixture {
    Fixture::File(path, text.as_bytes().to_vec())
}

pub(crate) fn all() -> Vec<Scenario> {
    vec![
        arguments(),
        paths(),
        extra_roots(),
        reading(),
        reading_large(),
        reading_media(),
        writing(),
        editing(),
        globbing(),
        searching(),
        searching_one_file(),
        shell_output(),
        shell_state(),
        shell_errors(),
        shell_ends(),
        shell_timeout(),
    ]
}

fn arguments() -> Scenario {
    let calls = [
        ("bash", json!({})),
        ("bash", json!({"command": null})),
        ("bash", json!({"command": ""})),
        ("bash", json!({"command": 1})),
        ("bash", json!({"command": "true", "cwd": "/"})),
        ("bash", json!({"command": "echo a", "timeout_ms": "5000"})),
        ("bash", json!({"command": "echo a", "timeout_ms": 5000.0})),
        ("bash", json!({"command": "echo a", "timeout_ms": 5000.5})),
        ("bash", json!({"command": "sleep 5", "timeout_ms": true})),
        ("bash", json!({"restart": 1})),
        ("bash", json!({"command": "echo a", "timeout_ms": [1]})),
        ("bash", json!({"command": "echo a", "timeout_ms": 0})),
        ("bash", json!({"command": "echo a", "restart": "no"})),
        ("bash", json!({"command": "echo a", "restart": 0})),
        ("bash", json!({"command": "echo a", "restart": 2})),
        ("bash", json!({"restart": "maybe"})),
        ("bash", json!({"restart": true, "command": "echo ignored"})),
        ("read", json!({})),
        ("read", json!({"file_path": null})),
        ("read", json!({"file_path": 3})),
        ("read", json!({"path": "a"})),
        ("read", json!({"file_path": "a.txt", "view_range": "1"})),
        ("read", json!({"file_path": "a.txt", "view_range": ["1", 2.0]})),
        ("read", json!({"file_path": "a.txt", "view_range": [1, null]})),
        ("read", json!({"file_path": "a.txt", "view_range": []})),
        ("read", json!({"file_path": "a.txt", "view_range": null})),
        ("write", json!({"file_path": "b.txt"})),
        ("write", json!({"content": "x"})),
        ("edit", json!({"file_path": "a.txt", "old_string": "one"})),
        ("edit", json!({"file_path": "a.txt", "old_string": "one", "new_string": "1", "replace_all": "x"})),
        ("glob", json!({})),
        ("glob", json!({"pattern": "*", "path": 1})),
        ("grep", json!({"path": "a"})),
        ("grep", json!({"pattern": "one", "path": null, "glob": "*"})),
    ];
    Scenario::new("arguments", vec![file("a.txt", "one\ntwo\n")], calls.into())
}

fn paths() -> Scenario {
    let fixtures = vec![
        file("dir/a.txt", "inside\n"),
        Fixture::Link("out", "/etc/hostname"),
        Fixture::Link("outdir", "/etc"),
        Fixture::Link("dangling-in", "dir/new.txt"),
        Fixture::Link("dangling-out", "/nonexistent/place"),
        Fixture::Link("loop-a", "loop-b"),
        Fixture::Link("loop-b", "loop-a"),
        Fixture::Link("in", "dir/a.txt"),
        Fixture::Link("up", ".."),
        Fixture::Pipe("pipe"),
    ];
    let long = format!("{}.txt", "n".repeat(300));
    let read = |path: &str| ("read", json!({"file_path": path}));
    let write = |path: &str| ("write", json!({"file_path": path, "content": "text"}));
    let calls = vec![
        read("dir/a.txt"),
        read("./dir/../dir/./a.txt"),
        read("$W/dir/a.txt"),
        read("//$W/dir/a.txt"),
        read("in"),
        read("/etc/passwd"),
        read("../secret"),
        read("dir/../../secret"),
        read("out"),
        read("outdir/passwd"),
        read("up/work/dir/a.txt"),
        read("up/other"),
        read("loop-a"),
        read("loop-a/x"),
        read("dangling-in"),
        read("dangling-out"),
        read("missing"),
        read("missing/deeper"),
        read("dir/a.txt/below"),
        read("dir"),
        read(""),
        read("."),
        read("pipe"),
        read("it's \"quoted\"/../../../x"),
        read("/etc/it's"),
        read("/etc/tab\tand\nline\u{202e}"),
        read("nul\u{0}byte"),
        read(&long),
        write("out"),
        write("dangling-out"),
        write("dangling-in"),
        write("outdir/x"),
        write("dir"),
        write("."),
        write("dir/a.txt/below"),
        write("dir/a.txt/below/deeper"),
        write("new/deep/file.txt"),
        write("new/./deep/../other.txt"),
        write(&long),
        ("edit", json!({"file_path": "out", "old_string": "a", "new_string": "b"})),
        ("edit", json!({"file_path": "pipe", "old_string": "a", "new_string": "b"})),
        ("edit", json!({"file_path": "in", "old_string": "inside", "new_string": "changed"})),
        ("glob", json!({"pattern": "*", "path": "/etc"})),
        ("glob", json!({"pattern": "*", "path": "outdir"})),
        ("grep", json!({"pattern": "x", "path": "../.."})),
        ("grep", json!({"pattern": "x", "path": "outdir"})),
    ];
    Scenario::new("paths", fixtures, calls)
}

fn extra_roots() -> Scenario {
    let fixtures = vec![
        file("../memory/note.md", "remember\n"),
        file("../shared/list.md", "shared\n"),
        file("../other/x", "no\n"),
    ];
    let calls = vec![
        ("read", json!({"file_path": "$W/../memory/note.md"})),
        ("read", json!({"file_path": "../shared/list.md"})),
        ("read", json!({"file_path": "../other/x"})),
        ("write", json!({"file_path": "../memory/new.md", "content": "x"})),
        ("edit", json!({"file_path": "../memory/note.md", "old_string": "remember", "new_string": "forget"})),
        ("glob", json!({"pattern": "*", "path": "../memory"})),
    ];
    let mut scenario = Scenario::new("extra roots", fixtures, calls);
    scenario.roots = vec![("memory", Access::ReadWrite), ("shared", Access::ReadWrite)];
    scenario
}

fn reading() -> Scenario {
    let fixtures = vec![
        file("lines", "one\ntwo\nthree\r\nfour"),
        file("empty", ""),
        file("newline", "\n"),
        Fixture::File("binary", vec![0xff, 0xfe, 0x00]),
        Fixture::File("latin", b"caf\xe9\n".to_vec()),
        file("unicode", "héllo\u{2028}wörld\n漢字\n"),
        file("secret", "hidden"),
        Fixture::Mode("secret", 0o000),
    ];
    let mut calls: Vec<_> = ["lines", "empty", "newline", "binary", "latin", "unicode", "secret"]
        .map(|path| ("read", json!({"file_path": path})))
        .into();
    for range in [[1, 2], [2, 2], [2, -1], [2, 0], [0, 1], [-5, 2], [3, 2], [4, 9], [99, 100], [1, 4]] {
        calls.push(("read", json!({"file_path": "lines", "view_range": range})));
    }
    calls.push(("read", json!({"file_path": "lines", "view_range": [1]})));
    calls.push(("read", json!({"file_path": "lines", "view_range": [1, 2, 3]})));
    calls.push(("read", json!({"file_path": "lines", "view_range": [1, 1e30]})));
    calls.push(("read", json!({"file_path": "unicode", "view_range": [2, 2]})));
    calls.push(("read", json!({"file_path": "missing", "view_range": [1]})));
    Scenario::new("reading", fixtures, calls)
}

fn reading_large() -> Scenario {
    let numbered: String = (0..60_000).map(|line| format!("line {line}\n")).collect();
    let fixtures = vec![
        Fixture::File("exact", vec![b'a'; 262_144]),
        Fixture::File("over", vec![b'a'; 262_145]),
        file("numbered", &numbered),
        Fixture::File("latin", [vec![b'a'; 262_144], b"\ncaf\xe9\n".to_vec()].concat()),
    ];
    let ranged = |path: &str, start: i64, end: i64| ("read", json!({"file_path": path, "view_range": [start, end]}));
    let calls = vec![
        ("read", json!({"file_path": "exact"})),
        ("read", json!({"file_path": "over"})),
        ("read", json!({"file_path": "numbered"})),
        ranged("over", 1, 1),
        ranged("over", 1, 2),
        ranged("over", 2, 3),
        ranged("numbered", 1, 3),
        ranged("numbered", 59_999, -1),
        ranged("numbered", 60_000, 0),
        ranged("numbered", 60_001, 60_002),
        ranged("numbered", 1, 59_000),
        ranged("numbered", 5, 3),
        ranged("numbered", -3, 2),
        ranged("latin", 2, 2),
        ("edit", json!({"file_path": "over", "old_string": "a", "new_string": "b"})),
    ];
    Scenario::new("reading large files", fixtures, calls)
}

fn reading_media() -> Scenario {
    let fixtures = vec![
        file("a.png", "not really"),
        file("b.JPG", "x"),
        file("c.jpeg", "xy"),
        file("d.gif", ""),
        file("e.webp", "xyz"),
        file("f.pdf", "%PDF"),
        Fixture::File("limit.png", vec![0; 3_932_160]),
        Fixture::File("over.png", vec![0; 3_932_161]),
        Fixture::File("over.pdf", vec![0; 20 * 1024 * 1024 + 1]),
        file(".png", "hidden name, no extension"),
        file("archive.png.txt", "text"),
        Fixture::Directory("dir.png"),
        Fixture::Link("link.txt", "a.png"),
    ];
    let mut calls: Vec<_> = [
        "a.png",
        "b.JPG",
        "c.jpeg",
        "d.gif",
        "e.webp",
        "f.pdf",
        "limit.png",
        "over.png",
        "over.pdf",
        ".png",
        "archive.png.txt",
        "dir.png",
        "link.txt",
    ]
    .map(|path| ("read", json!({"file_path": path})))
    .into();
    calls.push(("read", json!({"file_path": "a.png", "view_range": [1, 2]})));
    Scenario::new("reading media", fixtures, calls)
}

fn writing() -> Scenario {
    let write = |path: &str, content: &str| ("write", json!({"file_path": path, "content": content}));
    let calls = vec![
        write("a.txt", "hello"),
        write("a.txt", ""),
        write("b/c/d.txt", "héllo\r\nwörld 漢\n"),
        write("b", "over a directory"),
        write("kept", "shorter"),
    ];
    Scenario::new("writing", vec![file("kept", "a longer text than the new one")], calls)
}

fn editing() -> Scenario {
    let fixtures = vec![
        file("a.txt", "one two one two\r\nthree\n"),
        file("b.txt", "aaaa"),
        file("c.txt", "héé"),
        file("empty", ""),
        Fixture::File("binary", vec![0xff, b'a']),
        Fixture::Directory("dir"),
    ];
    let edit =
        |path: &str, old: &str, new: &str| ("edit", json!({"file_path": path, "old_string": old, "new_string": new}));
    let all = |path: &str, old: &str, new: &str| {
        ("edit", json!({"file_path": path, "old_string": old, "new_string": new, "replace_all": true}))
    };
    let calls = vec![
        edit("a.txt", "three", "3"),
        edit("a.txt", "one", "1"),
        edit("a.txt", "absent", "x"),
        all("a.txt", "one", "1"),
        all("a.txt", "absent", "x"),
        edit("a.txt", "two\r\n", "2\n"),
        edit("b.txt", "aa", "b"),
        all("b.txt", "aa", "b"),
        edit("c.txt", "", "x"),
        all("c.txt", "", "-"),
        edit("empty", "", "filled"),
        edit("binary", "a", "b"),
        edit("dir", "a", "b"),
        edit("missing", "a", "b"),
    ];
    Scenario::new("editing", fixtures, calls)
}

fn globbing() -> Scenario {
    let fixtures = vec![
        file("a.py", ""),
        file("b.py", ""),
        file(".hidden.py", ""),
        file("src/c.py", ""),
        file("src/deep/d.py", ""),
        file("src/deep/e.txt", ""),
        file("docs/readme.md", ""),
        file("[odd].txt", ""),
        Fixture::Directory("empty"),
        Fixture::Link("link-in", "src"),
        Fixture::Link("link-out", "/etc"),
        Fixture::Link("dangling", "nowhere"),
        Fixture::Link("loop", "loop"),
    ];
    let mut calls = Vec::new();
    for pattern in [
        "*.py",
        "**/*.py",
        "src/*.py",
        "src/**/*.py",
        "?.py",
        "[ab].py",
        "[!a].py",
        "*.rs",
        "",
        "./a.py",
        "a.py",
        "missing.py",
        "src",
        "src//c.py",
        "/etc/*",
        "../*",
        "src/../*",
        "a**",
        "**.py",
        "src/**/d.py",
        "**/deep/**/*.txt",
        "**/**/d.py",
        "*/*.py",
        "link-in/*.py",
        "link-out/host*",
        "link-in",
        "dangling",
        "loop",
        "[[]odd].txt",
        "[odd].txt",
        "{a,b}.py",
        "*.PY",
        "docs/",
        "a.py/",
        ".hidden*",
        "**/.hidden*",
        "src/./c.py",
        "a.py/*",
        "~",
        "src/deep/*/x",
    ] {
        calls.push(("glob", json!({"pattern": pattern})));
    }
    calls.push(("glob", json!({"pattern": "*.py", "path": "src"})));
    calls.push(("glob", json!({"pattern": "*.py", "path": "$W/src/deep"})));
    calls.push(("glob", json!({"pattern": "*.py", "path": "link-in"})));
    calls.push(("glob", json!({"pattern": "*", "path": "missing"})));
    calls.push(("glob", json!({"pattern": "*", "path": "a.py"})));
    calls.push(("glob", json!({"pattern": "*", "path": ""})));
    Scenario::new("globbing", fixtures, calls)
}

fn search_fixtures() -> Vec<Fixture> {
    vec![
        file("a.txt", "needle one\nother\nneedle two\r\n"),
        file("sub/b.txt", "no newline at the end: needle"),
        file(".hidden", "needle\n"),
        file("ignored.log", "needle\n"),
        file(".ignore", "*.log\n"),
        file("sub/.gitignore", "*.tmp\n"),
        file("sub/x.tmp", "needle\n"),
        Fixture::File("binary", b"needle\nmore\0needle\n".to_vec()),
        Fixture::File("latin", b"caf\xe9 needle\n".to_vec()),
        file("unicode", "Ünïcode NEEDLE\n"),
        file("empty", ""),
        Fixture::Link("link", "a.txt"),
        Fixture::Pipe("pipe"),
        Fixture::File(
            "utf16",
            [&[0xff, 0xfe][..], &"needle sixteen\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()]
                .concat(),
        ),
    ]
}

fn searching() -> Scenario {
    let mut calls = Vec::new();
    for pattern in [
        "needle",
        "absent",
        "^needle",
        "needle$",
        "(?i)needle",
        "n.{2}dle",
        "\\bone\\b",
        "[",
        "(",
        "a\\nb",
        "",
        "-e",
        "needle|other",
        "\\w+ two",
        "ï",
    ] {
        calls.push(("grep", json!({"pattern": pattern})));
    }
    calls.push(("grep", json!({"pattern": "needle", "path": "sub"})));
    calls.push(("grep", json!({"pattern": "needle", "path": "link"})));
    calls.push(("grep", json!({"pattern": "needle", "path": ""})));
    calls.push(("grep", json!({"pattern": "needle", "path": "missing"})));
    let mut scenario = Scenario::new("searching", search_fixtures(), calls);
    scenario.compare = Compare::AsLines;
    scenario
}

fn searching_one_file() -> Scenario {
    let mut fixtures = search_fixtures();
    fixtures.push(Fixture::File("large", b"a needle in every line of this file\n".repeat(4_000)));
    let calls = ["a.txt", "sub/b.txt", ".hidden", "ignored.log", "latin", "unicode", "empty", "large", "utf16"]
        .map(|path| ("grep", json!({"pattern": "needle", "path": path})));
    Scenario::new("searching one file", fixtures, calls.into())
}

fn bash(command: &str) -> (&'static str, Value) {
    ("bash", json!({"command": command}))
}

fn shell_output() -> Scenario {
    let calls = vec![
        bash("echo hello"),
        bash("true"),
        bash("printf 'no newline'"),
        bash("printf '\\n\\nleading and trailing\\n\\n\\n'"),
        bash("echo out; echo err >&2; echo out again"),
        bash("printf '\\033[31mred\\033[0m plain \\033[2Kx'"),
        bash("printf '\\xff\\xfe bad bytes'"),
        bash("printf 'h\\xc3\\xa9 \\xe6\\xbc\\xa2'"),
        bash("cat"),
        bash("read x; echo \"status $? [$x]\""),
        bash("echo $TERM; echo \"[$PS1$PS2]\""),
        bash("echo a # with a comment"),
        bash("cat <<'END'\nhere $document\nEND"),
        bash("echo one\necho two\n\necho three"),
        bash("seq 1 10"),
        bash("printf ' spaces kept  '"),
        bash("echo héllo | tr 'é' 'e'"),
    ];
    Scenario::new("shell output", vec![], calls)
}

fn shell_state() -> Scenario {
    let calls = vec![
        bash("x=1; export y=2; f() { echo \"f $1 $x $y\"; }; mkdir -p d; cd d"),
        bash("f arg; pwd | xargs basename; env | grep ^y="),
        bash("cd ..; ls; alias ll=ls; shopt expand_aliases"),
        ("bash", json!({"restart": true})),
        bash("echo \"[$x]\"; basename \"$PWD\"; type f"),
    ];
    Scenario::new("shell state", vec![], calls)
}

fn shell_errors() -> Scenario {
    let calls = vec![
        bash("false"),
        bash("echo partial; exit_status=3; (exit $exit_status)"),
        bash("ls /nonexistent-path"),
        bash("nonexistent-command-of-ours"),
        bash("echo fine"),
        bash("(exit 300)"),
        bash("fi"),
        bash("echo after a syntax error"),
    ];
    let mut scenario = Scenario::new("shell errors", vec![], calls);
    scenario.compare = Compare::AsLines;
    scenario
}

fn shell_ends() -> Scenario {
    let calls = vec![
        bash("head -c 200000 /dev/zero | tr '\\0' 'y'; exit_code=1; (exit $exit_code)"),
        bash("echo bye; exit 3"),
        bash("echo not heard"),
        ("bash", json!({"restart": true})),
        bash("echo back"),
        bash("exec true"),
        bash("echo not heard either"),
        ("bash", json!({"restart": true})),
        bash("# only a comment"),
        bash("echo not heard once more"),
        ("bash", json!({"restart": true})),
        bash("set -u; echo ${undefined}"),
        bash("echo not heard at all"),
    ];
    let mut scenario = Scenario::new("a shell that ends", vec![], calls);
    scenario.compare = Compare::AsLines;
    scenario
}

fn shell_timeout() -> Scenario {
    let calls = vec![
        ("bash", json!({"command": "echo started; sleep 30", "timeout_ms": 300})),
        bash("echo not heard"),
        ("bash", json!({"command": "echo not heard", "timeout_ms": 1000})),
        ("bash", json!({"restart": true})),
        ("bash", json!({"command": "echo 'unclosed", "timeout_ms": 250})),
        ("bash", json!({"restart": true})),
        bash("echo back"),
    ];
    Scenario::new("a shell that is timed out", vec![], calls)
}
