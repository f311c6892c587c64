//! What the model and everyone else are shown of a call's result: what the endpoint can read, and of a text that is too
//! long its ends, with the whole in a file of the session's workspace where one of our workers holds it.

use postern_model::content::Block;
use postern_model::control::{PUT_FILE_BYTES, RESULTS_DIRECTORY};
use postern_model::ids::EventId;
use postern_upstream::mcp::McpFailure;

use super::Caller;

/// The longest text that is shown whole, in characters.
const WHOLE: usize = 100_000;
/// How much of each end of a longer one is shown, in characters.
const END: usize = 4_000;
/// The largest picture or document, in bytes of its JSON: about what the Messages API takes.
const MOST_BYTES: usize = 5 << 20;
/// How many pictures and documents one result may have.
const MOST_OTHERS: usize = 20;
/// How much of a failure's words is told, in bytes: they are another's, and stay in the log for ever.
const MOST_SAID: usize = 2_000;
/// How many pieces of text one result may have before they are joined.
const MOST_TEXTS: usize = 100;

/// The content as it goes into the log.
pub(crate) async fn fit(caller: &Caller, call: &EventId, content: Vec<Block>) -> Vec<Block> {
    let content = readable(content);
    let length: usize = texts(&content).map(|text| text.chars().count()).sum();
    if length > WHOLE {
        let whole = joined(&content);
        let where_it_is = store(caller, call, &whole).await;
        return with_text(content, ends(&whole, &where_it_is));
    }
    match texts(&content).count() > MOST_TEXTS {
        true => {
            let whole = joined(&content);
            with_text(content, whole)
        }
        false => content,
    }
}

/// What the model is told of a call that got no result.
pub(super) fn failed(server: &str, tool: &str, failure: &McpFailure) -> String {
    let fate = match failure.started {
        true => "It may have run: its outcome is unknown and it was not run again.",
        false => "It was not run.",
    };
    format!("The call to `{tool}` of the MCP server `{server}` failed. {fate} {}", told(failure))
}

/// A failure in words: its code, what happened, what to do.
pub(super) fn told(failure: &McpFailure) -> String {
    format!("{}: {} Next step: {}", failure.code, sentence(&failure.message), sentence(&failure.next_step))
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(MOST_SAID)];
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// Puts a note in the place of each block that the endpoint would refuse, with which every later request would fail.
fn readable(content: Vec<Block>) -> Vec<Block> {
    let mut others = 0;
    let mut readable_or_note = |block: Block| {
        if matches!(block, Block::Text { .. }) {
            return block;
        }
        others += 1;
        match left_out(&block, others) {
            Some(reason) => Block::text(format!("[a block of type `{}` was left out: {reason}]", block.kind())),
            None => block,
        }
    };
    content.into_iter().map(&mut readable_or_note).collect()
}

fn left_out(block: &Block, number: usize) -> Option<String> {
    if matches!(block, Block::Redacted {}) {
        return Some("it has no content".into());
    }
    if number > MOST_OTHERS {
        return Some(format!("a result may have {MOST_OTHERS} such blocks"));
    }
    let size = serde_json::to_string(block).map_or(usize::MAX, |json| json.len());
    let most = if matches!(block, Block::SearchResult { .. }) { WHOLE } else { MOST_BYTES };
    if size > most {
        return Some(format!("it has {size} bytes, more than {most}"));
    }
    block.unreadable().map(str::to_owned)
}

fn texts(content: &[Block]) -> impl Iterator<Item = &str> {
    content.iter().filter_map(|block| match block {
        Block::Text { text } => Some(text.as_str()),
        _ => None,
    })
}

fn joined(content: &[Block]) -> String {
    texts(content).collect::<Vec<_>>().join("\n")
}

/// The content with one text in the place of all.
fn with_text(content: Vec<Block>, text: String) -> Vec<Block> {
    let others = content.into_iter().filter(|block| !matches!(block, Block::Text { .. }));
    std::iter::once(Block::text(text)).chain(others).collect()
}

fn ends(whole: &str, where_it_is: &str) -> String {
    let count = whole.chars().count();
    let head: String = whole.chars().take(END).collect();
    let tail: String = whole.chars().skip(count - END).collect();
    let left_out = count - 2 * END;
    format!("{head}\n[{left_out} of {count} characters left out. {where_it_is}]\n{tail}")
}

/// Stores the whole text in the session's workspace; says where it is, or why it is nowhere.
async fn store(caller: &Caller, call: &EventId, whole: &str) -> String {
    let nowhere = |why: &str| format!("The rest was not kept: {why}. Ask for less at once to see it.");
    let Some(hub) = &caller.shared.surroundings.hub else { return nowhere("this server reaches no worker") };
    let mut paths = Vec::new();
    for part in parts(whole) {
        let path = match paths.len() {
            0 => format!("{RESULTS_DIRECTORY}/{call}.txt"),
            before => format!("{RESULTS_DIRECTORY}/{call}.{}.txt", before + 1),
        };
        let stored = hub.put_file(&caller.environment, &caller.session, path.clone(), part.as_bytes().to_vec()).await;
        if let Err(failure) = stored {
            tracing::info!(session = %caller.session, code = failure.code(), "a long result was not stored");
            return nowhere(&format!("no worker took it ({}: {failure})", failure.code()));
        }
        paths.push(path);
    }
    format!("The whole result is in {}: read it with your file tools.", paths.join(", then "))
}

/// The text in pieces that fit a file each, cut between characters.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > PUT_FILE_BYTES {
        let (part, rest) = text.split_at(text.floor_char_boundary(PUT_FILE_BYTES));
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_nothing_is_lost() {
        let text = "\u{20ac}".repeat(PUT_FILE_BYTES / 2);
        let parts = parts(&text);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= PUT_FILE_BYTES));
        assert_eq!(parts.concat(), text);
        assert_eq!(super::parts(""), [""]);
    }

    #[test]
    fn blocks_that_the_endpoint_would_refuse_become_notes() {
        let image = |media_type: &str, data: String| -> Block {
            serde_json::from_value(serde_json::json!({"type": "image",
                "source": {"type": "base64", "media_type": media_type, "data": data}}))
            .unwrap()
        };
        let good = image("image/png", "QUJD".into());
        assert_eq!(readable(vec![good.clone(), Block::text("t")]), [good.clone(), Block::text("t")]);
        for bad in [
            image("image/svg+xml", "QUJD".into()),
            image("image/png", "not base64".into()),
            image("image/png", "QUJD".repeat(MOST_BYTES / 4)),
            Block::Redacted {},
        ] {
            let kind = bad.kind();
            let [Block::Text { text }] = &readable(vec![bad])[..] else { panic!("a note") };
            assert!(text.contains(kind) && text.contains("left out"), "{text}");
        }
        let many = readable(vec![good; MOST_OTHERS + 3]);
        assert_eq!(many.iter().filter(|block| matches!(block, Block::Image { .. })).count(), MOST_OTHERS);
    }

    #[test]
    fn a_failure_says_whether_the_tool_may_have_run_and_what_to_do() {
        let failure = |started| McpFailure {
            kind: postern_upstream::mcp::McpFailureKind::Connection,
            code: "tunnel_offline".into(),
            message: "nobody is connected".into(),
            next_step: "Start the gateway.".into(),
            started,
        };
        let text = failed("wiki", "search", &failure(false));
        assert!(
            text.contains("was not run.") && text.contains("tunnel_offline: nobody is connected. Next step: Start")
        );
        assert!(failed("wiki", "search", &failure(true)).contains("outcome is unknown and it was not run again"));
    }
}
