use super::script::Ended;
use super::*;
use RepositoryFault::*;

fn wanted(checkout: Option<Checkout>) -> Wanted {
    let shown = serde_json::json!({
        "id": "sesrsc_1", "url": "https://git.example/team/it's", "mount_path": "/workspace/it's here", "checkout": checkout,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    });
    Wanted::read(serde_json::from_value(shown).unwrap()).unwrap()
}

#[test]
fn what_no_server_of_ours_would_have_taken_is_not_wanted() {
    let shown = |key: &str, value: &str| {
        let mut shown = serde_json::json!({
            "id": "sesrsc_1", "url": "https://git.example/x", "mount_path": "/workspace/x",
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        shown[key] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        serde_json::from_value(shown).ok().and_then(Wanted::read)
    };
    assert!(shown("url", "https://git.example/y").is_some());
    for (key, value) in [
        ("url", "file:///etc"),
        ("url", "https://user@git.example/x"),
        ("mount_path", "/etc/cron.d"),
        ("mount_path", "/workspace/../etc"),
        ("checkout", r#"{"type": "branch", "name": "--upload-pack=x"}"#),
        ("checkout", r#"{"type": "commit", "sha": "$(id)"}"#),
        ("id", "sesrsc_../../x"),
    ] {
        assert_eq!(shown(key, value), None, "{key} {value}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the shell itself reads the script and runs none of it")]
fn every_word_from_outside_is_one_word_to_the_shell() {
    let branch = Checkout::Branch { name: "a'b;c".to_owned() };
    for checkout in [None, Some(branch), Some(Checkout::Commit { sha: "a".repeat(40) })] {
        let script = script::begin_and_wait(&wanted(checkout.clone()), WAIT);
        let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).output().unwrap();
        assert!(checked.status.success(), "{checkout:?}: {script}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn the_last_marked_line_says_how_it_ended() {
    for (said, ended) in [
        ("[postern] clone: still\n", Ended::Still),
        ("log\n[postern] clone: 0", Ended::Cloned),
        (
            "[postern] clone: 0\nlog\n[postern] clone: 11\n[postern] refused a:1 reason=x next=y",
            Ended::Failed(Some(11)),
        ),
        ("remote: [postern] clone: 0\n[postern] clone: 10\n", Ended::Failed(Some(10))),
        ("[postern] not run reason=session_frozen next=wait", Ended::Failed(None)),
        ("", Ended::Failed(None)),
    ] {
        assert_eq!(script::ended(said), ended, "{said:?}");
    }
}

#[test]
fn what_git_and_the_exit_say_is_one_of_five_kinds_each_with_a_next_step() {
    for (code, said, kind, words) in [
        (Some(127), "", RepositoryCloneError, "no git"),
        (Some(73), "", RepositoryCloneError, "something else lies"),
        (
            Some(10),
            "fatal: Authentication failed for 'https://git.example/x/'",
            RepositoryAuthenticationError,
            "another",
        ),
        (
            Some(10),
            "fatal: could not read Username for 'https://git.example'",
            RepositoryAuthenticationError,
            "wants one",
        ),
        (Some(10), "fatal: unable to access: The requested URL returned error: 403", RepositoryForbiddenError, "right"),
        (Some(10), "fatal: repository 'https://git.example/x/' not found", RepositoryNotFoundError, "look at `url`"),
        (
            Some(10),
            "x\n[postern] refused git.example:443 reason=host_not_allowed next=ask",
            RepositoryForbiddenError,
            "git.example",
        ),
        (None, "[postern] not run reason=policy_forbidden next=ask", RepositoryForbiddenError, "policy_forbidden"),
        (Some(11), "fatal: 'refs/remotes/origin/x' is not a commit", RepositoryCheckoutError, "checkout"),
        (Some(10), "fatal: early EOF", RepositoryCloneError, "early EOF"),
        (None, "tool 'bash' timed out", RepositoryCloneError, "timed out"),
    ] {
        let fault = fault::of(&wanted(None), code, said);
        assert_eq!(fault.kind, kind, "{said}: {}", fault.message);
        assert!(fault.message.contains(words) && fault.message.contains("Next step"), "{said}: {}", fault.message);
    }
}

/// A sandbox in which git does not come to an end.
struct Endless(usize);

impl Hands for Endless {
    async fn run(&mut self, _: &ToolCall, _: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        self.0 += 1;
        Outcome { is_error: false, content: vec![Block::text("[postern] clone: still")] }
    }

    async fn passes(&mut self, _: crate::hands::Passage) -> Result<(), String> {
        Ok(())
    }

    async fn close(self) {}
}

#[tokio::test]
async fn a_clone_that_does_not_end_is_waited_for_ten_minutes_and_given_up() {
    let mut hands = Endless(0);
    let fault = run(&wanted(None), &mut hands).await.unwrap_err();
    assert_eq!((fault.kind, hands.0), (RepositoryCloneError, 7), "six that wait, and one that removes");
    assert_eq!(WAIT * WAITS, Duration::from_secs(600));
}

/// A host's shell, in which `/workspace` is a directory of the test's and git comes from another one.
struct Shell {
    directory: std::path::PathBuf,
    url: String,
}

impl Hands for Shell {
    #[expect(clippy::disallowed_methods, reason = "the script runs as it does inside")]
    async fn run(&mut self, call: &ToolCall, _: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        let place = |name: &str| self.directory.join(name).display().to_string();
        let script = call.input["command"].as_str().unwrap();
        let script = script.replace("/workspace", &place("workspace")).replace("/tmp/", &place("tmp/"));
        let path = format!("{}:{}", place("bin"), std::env::var("PATH").unwrap());
        let header = format!("http.{}.extraHeader", self.url);
        let configured = [("COUNT", "1"), ("KEY_0", &header), ("VALUE_0", "Authorization: Basic dG9rZW4=")];
        let ran = std::process::Command::new("sh")
            .args(["-c", &script])
            .envs(configured.map(|(name, value)| (format!("GIT_CONFIG_{name}"), value)))
            .env("PATH", path)
            .output();
        let said = String::from_utf8_lossy(&ran.unwrap().stdout).into_owned();
        Outcome { is_error: false, content: vec![Block::text(said)] }
    }

    async fn passes(&mut self, _: crate::hands::Passage) -> Result<(), String> {
        Ok(())
    }

    async fn close(self) {}
}

#[tokio::test]
async fn a_git_that_does_not_know_its_variables_sends_no_token_and_that_is_an_authentication_error() {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    // What git learned with 2.31.
    let old = "unset GIT_CONFIG_COUNT";
    for (forgotten, sent) in [(old, false), (":", true)] {
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", host.local_addr().unwrap());
        let (asked, heads) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in host.incoming() {
                let mut stream = stream.unwrap();
                let lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                asked.send(head.iter().any(|line| line.contains("Basic dG9rZW4="))).unwrap();
                let more = "www-authenticate: Basic\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                write!(stream, "HTTP/1.1 401 Unauthorized\r\n{more}").unwrap();
            }
        });
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        let git = directory.path().join("bin/git");
        std::fs::write(&git, format!("#!/bin/sh\n{forgotten}\nPATH=${{PATH#*:}}\nexec git \"$@\"\n")).unwrap();
        std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).unwrap();
        let wanted = Wanted { url: url.parse().unwrap(), ..wanted(None) };
        let fault = run(&wanted, &mut Shell { directory: directory.path().to_owned(), url }).await.unwrap_err();
        assert_eq!(fault.kind, RepositoryAuthenticationError, "{}", fault.message);
        assert_eq!(heads.recv(), Ok(sent), "{forgotten}");
    }
}

#[test]
fn of_what_git_said_the_end_is_told() {
    let fault = fault::of(&wanted(None), Some(10), &format!("{}the end", "#".repeat(5_000)));
    assert_eq!(fault.message.matches('#').count() + "the end".len(), 600);
    assert!(fault.message.ends_with("#the end"), "{}", fault.message);
}
