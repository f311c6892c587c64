//! Decisions by table, and any order of events against what a worker may ever do.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const MAX: Duration = Duration::from_secs(60);

fn owns(name: &str) -> bool {
    name == "bash"
}

/// A machine with a clock that the test moves, and everything it said.
struct Machine {
    dispatch: Dispatch,
    now: Duration,
    effects: Vec<Effect>,
}

impl Machine {
    fn new() -> Self {
        Self { dispatch: Dispatch::new(owns, MAX), now: Duration::ZERO, effects: Vec::new() }
    }

    /// One whose history held these events.
    fn after(history: &[Value]) -> Self {
        let mut machine = Self::new();
        machine.reads(history, History::Complete);
        machine
    }

    fn reads(&mut self, history: &[Value], ends: History) {
        self.put(Input::HistoryBegins);
        for event in history {
            self.put(Input::History(SessionEvent::read(event)));
        }
        self.put(Input::HistoryEnds(ends));
    }

    fn put(&mut self, input: Input) -> &mut Self {
        self.effects.extend(self.dispatch.handle(input, self.now));
        self
    }

    fn sees(&mut self, event: Value) -> &mut Self {
        self.put(Input::Live(SessionEvent::read(&event)))
    }

    fn waits(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self.put(Input::Tick)
    }

    fn finishes(&mut self, id: &str) -> &mut Self {
        self.put(Input::Ran { id: id.into() }).put(Input::Settled { id: id.into() })
    }

    /// What was said since the last look: `run a`, `post a`, `end idle`.
    fn said(&mut self) -> Vec<String> {
        self.effects
            .drain(..)
            .map(|effect| match effect {
                Effect::Run(call) => format!("run {}", call.id),
                Effect::Post { id } => format!("post {id}"),
                Effect::End(end) => format!("end {end:?}"),
            })
            .collect()
    }
}

fn tool(id: &str) -> Value {
    json!({"id": id, "type": "agent.tool_use", "name": "bash", "input": {"command": "true"}, "evaluated_permission": "allow"})
}

fn with(mut event: Value, key: &str, value: Value) -> Value {
    event[key] = value;
    event
}

fn ask(id: &str) -> Value {
    with(tool(id), "evaluated_permission", json!("ask"))
}

fn verdict(id: &str, result: &str) -> Value {
    json!({"type": "user.tool_confirmation", "tool_use_id": id, "result": result})
}

fn result(id: &str) -> Value {
    json!({"type": "user.tool_result", "tool_use_id": id})
}

fn idle(reason: &str) -> Value {
    json!({"type": "session.status_idle", "stop_reason": {"type": reason}})
}

fn running() -> Value {
    json!({"type": "session.status_running"})
}

fn thread_ended(thread: &str) -> Value {
    json!({"type": "session.thread_status_terminated", "session_thread_id": thread})
}

#[test]
fn only_a_session_that_waits_for_its_next_turn_makes_room() {
    let idle = json!({"id": "i", "type": "session.status_idle", "stop_reason": {"type": "end_turn"}});
    let asks = json!({"id": "i", "type": "session.status_idle", "stop_reason": {"type": "requires_action"}});
    // What a session that rested is told counts as activity, until it says that it still rests.
    let error = json!({"id": "e", "type": "session.error"});
    for (history, said) in [
        (vec![idle.clone()], vec!["end Idle"]),
        (vec![idle.clone(), error.clone()], vec![]),
        (vec![idle.clone(), error, idle.clone()], vec!["end Idle"]),
        (vec![asks], vec![]),
        (vec![tool("a")], vec!["run a"]),
        (vec![], vec![]),
    ] {
        let mut machine = Machine::after(&history);
        machine.put(Input::MakeRoom);
        assert_eq!(machine.said(), said, "{history:?}");
    }
    let mut machine = Machine::after(&[idle]);
    machine.sees(tool("a")).put(Input::MakeRoom);
    assert_eq!(machine.said(), ["run a"]);
}

#[test]
fn a_session_that_outgrows_its_share_of_memory_ends_and_an_answered_one_of_the_same_size_does_not() {
    let large = |id: usize| with(tool(&format!("sevt_{id}")), "input", json!({"command": "x".repeat(8 << 20)}));
    let answer =
        |id: usize| json!({"type": "user.tool_result", "tool_use_id": format!("sevt_{id}"), "is_error": false});
    let mut open = Machine::new();
    let mut answered = Machine::new();
    open.put(Input::HistoryBegins);
    answered.put(Input::HistoryBegins);
    for id in 0..40 {
        open.put(Input::History(SessionEvent::read(&large(id))));
        answered.put(Input::History(SessionEvent::read(&large(id))));
        answered.put(Input::History(SessionEvent::read(&answer(id))));
    }
    assert_eq!(open.said(), ["end Flooded"]);
    assert_eq!(answered.said(), Vec::<String>::new());
}

#[test]
fn arguments_that_are_no_object_reach_the_tool_as_what_they_are() {
    for (input, expected) in [
        (json!({"command": "true"}), json!({"command": "true"})),
        (json!(null), json!({})),
        (json!("rm -rf ."), json!({"input": "rm -rf ."})),
        (json!([1, 2]), json!({"input": [1, 2]})),
        (json!(7), json!({"input": 7})),
    ] {
        let SessionEvent::ToolUse(read) = SessionEvent::read(&with(tool("a"), "input", input)) else {
            panic!("a tool use")
        };
        assert_eq!(Value::Object(read.call.input), expected);
    }
}

#[test]
fn tool_uses_run_one_after_the_other_and_each_is_posted() {
    let mut machine = Machine::after(&[]);
    machine.sees(tool("a")).sees(tool("b"));
    assert_eq!(machine.said(), ["run a"]);
    machine.put(Input::Ran { id: "a".into() });
    assert_eq!(machine.said(), ["post a"]);
    machine.put(Input::Settled { id: "a".into() });
    assert_eq!(machine.said(), ["run b"]);
}

#[test]
fn an_event_that_comes_twice_runs_once() {
    let mut machine = Machine::after(&[tool("a")]);
    machine.sees(tool("a")).finishes("a").sees(tool("a"));
    machine.reads(&[tool("a"), result("a")], History::Complete);
    assert_eq!(machine.said(), ["run a", "post a"]);
}

#[test]
fn what_the_history_shows_answered_does_not_run() {
    let answers = [result("a"), json!({"type": "agent.tool_result", "tool_use_id": "a", "is_error": true})];
    for answer in answers {
        assert_eq!(Machine::after(&[tool("a"), answer]).said(), Vec::<String>::new());
    }
    assert_eq!(Machine::after(&[tool("a"), result("b")]).said(), ["run a"]);
}

#[test]
fn nothing_of_a_history_runs_before_all_of_it_is_known() {
    let mut machine = Machine::new();
    machine.put(Input::HistoryBegins).put(Input::History(SessionEvent::read(&tool("a"))));
    assert_eq!(machine.said(), Vec::<String>::new());
    machine.put(Input::History(SessionEvent::read(&result("a")))).put(Input::HistoryEnds(History::Complete));
    assert_eq!(machine.said(), Vec::<String>::new());
}

#[test]
fn a_history_that_could_not_be_read_is_read_again() {
    let mut machine = Machine::new();
    machine.reads(&[tool("a")], History::Failed);
    assert_eq!(machine.said(), Vec::<String>::new());
    machine.reads(&[tool("a")], History::Complete);
    assert_eq!(machine.said(), ["run a"]);
}

#[test]
fn gates_are_kept() {
    let custom = json!({"id": "a", "type": "agent.custom_tool_use", "name": "bash", "input": {}});
    let mcp = json!({"id": "a", "type": "agent.mcp_tool_use", "name": "bash", "input": {}});
    for (why, events, said) in [
        ("allowed", vec![tool("a")], vec!["run a"]),
        ("no word", vec![with(tool("a"), "evaluated_permission", Value::Null)], vec!["run a"]),
        ("denied", vec![with(tool("a"), "evaluated_permission", json!("deny"))], vec![]),
        (
            "denied, whatever a person says",
            vec![with(tool("a"), "evaluated_permission", json!("deny")), verdict("a", "allow")],
            vec![],
        ),
        ("asked, no verdict", vec![ask("a")], vec![]),
        ("asked, allowed", vec![ask("a"), verdict("a", "allow")], vec!["run a"]),
        ("asked, refused", vec![ask("a"), verdict("a", "deny")], vec![]),
        ("asked, an unknown verdict", vec![ask("a"), verdict("a", "maybe")], vec![]),
        ("asked, a verdict on another", vec![ask("a"), verdict("b", "allow")], vec![]),
        ("an unknown permission is asked", vec![with(tool("a"), "evaluated_permission", json!("perhaps"))], vec![]),
        ("a permission that is no word is asked", vec![with(tool("a"), "evaluated_permission", json!(true))], vec![]),
        ("refused without being asked", vec![verdict("a", "deny"), tool("a")], vec![]),
        ("not ours", vec![with(tool("a"), "name", json!("web_fetch"))], vec![]),
        ("a custom tool of the same name", vec![custom], vec![]),
        ("an MCP tool of the same name", vec![mcp], vec![]),
        ("a thread that ended", vec![thread_ended("t"), with(tool("a"), "session_thread_id", json!("t"))], vec![]),
        (
            "another thread ended",
            vec![thread_ended("u"), with(tool("a"), "session_thread_id", json!("t"))],
            vec!["run a"],
        ),
    ] {
        let mut live = Machine::after(&[]);
        for event in &events {
            live.sees(event.clone());
        }
        assert_eq!(live.said(), said, "live: {why}");
        assert_eq!(Machine::after(&events).said(), said, "from history: {why}");
    }
}

#[test]
fn the_result_of_a_thread_that_ended_meanwhile_is_not_posted() {
    let mut machine = Machine::after(&[]);
    machine.sees(with(tool("a"), "session_thread_id", json!("t"))).sees(thread_ended("t")).sees(tool("b"));
    machine.put(Input::Ran { id: "a".into() });
    assert_eq!(machine.said(), ["run a", "run b"]);
}

#[test]
fn an_undelivered_result_is_tried_again_with_the_next_history() {
    let mut machine = Machine::after(&[tool("a")]);
    machine.put(Input::Ran { id: "a".into() }).put(Input::Undelivered { id: "a".into() });
    assert_eq!(machine.said(), ["run a", "post a"]);
    machine.reads(&[tool("a")], History::Complete);
    assert_eq!(machine.said(), ["run a"]);
}

#[test]
fn a_finished_turn_is_waited_on_for_a_minute() {
    let mut machine = Machine::after(&[]);
    machine.sees(idle("end_turn")).waits(59);
    assert_eq!(machine.said(), Vec::<String>::new());
    machine.waits(1);
    assert_eq!(machine.said(), ["end Idle"]);
    machine.sees(tool("a"));
    assert_eq!(machine.said(), Vec::<String>::new(), "nothing after the end");
}

#[test]
fn only_a_finished_turn_starts_the_countdown() {
    for (reason, ends) in [
        ("end_turn", true),
        ("retries_exhausted", true),
        ("refusal", true),
        ("something new", true),
        ("requires_action", false),
    ] {
        let mut machine = Machine::after(&[]);
        machine.sees(idle(reason)).waits(1_000);
        assert_eq!(machine.said() == ["end Idle"], ends, "{reason}");
        let mut machine = Machine::after(&[idle(reason)]);
        machine.waits(1_000);
        assert_eq!(machine.said() == ["end Idle"], ends, "{reason} in the history");
    }
}

#[test]
fn any_telling_event_stops_the_countdown_and_a_neutral_one_does_not() {
    for (event, goes_on) in [
        (running(), false),
        (json!({"type": "user.message"}), false),
        (verdict("x", "allow"), true),
        (thread_ended("x"), true),
    ] {
        let mut machine = Machine::after(&[]);
        machine.sees(idle("end_turn")).waits(30).sees(event.clone()).waits(30);
        assert_eq!(machine.said() == ["end Idle"], goes_on, "{event}");
    }
}

#[test]
fn the_countdown_waits_for_a_person_and_for_what_was_allowed() {
    let mut machine = Machine::after(&[]);
    machine.sees(ask("a")).sees(idle("end_turn")).waits(1_000);
    assert_eq!(machine.said(), Vec::<String>::new(), "held");
    machine.sees(verdict("a", "allow")).waits(1_000);
    assert_eq!(machine.said(), ["run a"], "running");
    machine.finishes("a").waits(59);
    assert_eq!(machine.said(), ["post a"], "a fresh minute");
    machine.waits(1);
    assert_eq!(machine.said(), ["end Idle"]);
}

#[test]
fn a_refusal_lets_the_countdown_begin() {
    let mut machine = Machine::after(&[]);
    machine.sees(ask("a")).sees(idle("end_turn")).sees(verdict("a", "deny")).waits(60);
    assert_eq!(machine.said(), ["end Idle"]);
}

#[test]
fn somebody_elses_open_tool_use_keeps_a_session_that_looks_finished() {
    let foreign = with(tool("a"), "name", json!("lookup"));
    let mut machine = Machine::after(&[foreign.clone(), idle("end_turn")]);
    machine.waits(1_000);
    assert_eq!(machine.said(), Vec::<String>::new());
    let mut machine = Machine::after(&[foreign, result("a"), idle("end_turn")]);
    machine.waits(60);
    assert_eq!(machine.said(), ["end Idle"]);
}

#[test]
fn a_session_that_is_over_ends_at_once() {
    for event in [json!({"type": "session.status_terminated"}), json!({"type": "session.deleted"})] {
        let mut machine = Machine::after(&[]);
        machine.sees(tool("a")).sees(event);
        assert_eq!(machine.said(), ["run a", "end SessionOver"]);
    }
    assert_eq!(Machine::after(&[tool("a"), json!({"type": "session.status_terminated"})]).said(), ["end SessionOver"]);
}

#[test]
fn a_drain_lets_the_running_tool_use_end_and_starts_no_other() {
    let mut machine = Machine::after(&[]);
    machine.sees(tool("a")).sees(tool("b")).put(Input::Drain);
    assert_eq!(machine.said(), ["run a"]);
    machine.finishes("a");
    assert_eq!(machine.said(), ["post a", "end Drained { turn_over: false }"]);
    let mut machine = Machine::after(&[idle("end_turn")]);
    machine.put(Input::Drain);
    assert_eq!(machine.said(), ["end Drained { turn_over: true }"]);
}

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Live(Value),
    Reread(History),
    Finish,
    Fail,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Value> {
    let id = prop::sample::select(vec!["a", "b", "c", "d"]);
    let gate = prop::sample::select(vec!["allow", "ask", "deny", "new"]);
    let name = prop::sample::select(vec!["bash", "lookup"]);
    let thread = prop::sample::select(vec![Value::Null, json!("t")]);
    prop_oneof![
        4 => (id.clone(), gate, name, thread).prop_map(|(id, gate, name, thread)| json!({
            "id": id, "type": "agent.tool_use", "name": name, "input": {}, "evaluated_permission": gate, "session_thread_id": thread
        })),
        2 => id.clone().prop_map(result),
        2 => (id, prop::sample::select(vec!["allow", "deny", "odd"])).prop_map(|(id, word)| verdict(id, word)),
        1 => Just(thread_ended("t")),
        1 => prop::sample::select(vec!["end_turn", "requires_action"]).prop_map(idle),
        1 => Just(running()),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => events().prop_map(Step::Live),
        1 => prop::sample::select(vec![History::Complete, History::Failed]).prop_map(Step::Reread),
        3 => Just(Step::Finish),
        1 => Just(Step::Fail),
        1 => (0u64..90).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

/// What the world knows when a tool use is run: the reference that the machine is held against.
#[derive(Default)]
struct World {
    log: Vec<Value>,
    running: Option<String>,
    settled: HashSet<String>,
}

impl World {
    fn check_run(&self, call: &ToolCall) -> Result<(), TestCaseError> {
        let uses: Vec<_> = self.log.iter().filter(|event| event["id"] == call.id.as_str()).collect();
        prop_assert!(self.running.is_none(), "two at one time");
        prop_assert!(!self.settled.contains(&call.id), "{} ran again", call.id);
        prop_assert!(!uses.is_empty(), "{} was never asked for", call.id);
        prop_assert_eq!(&call.name, "bash");
        let said = |word: &str| self.log.contains(&verdict(&call.id, word));
        let open = uses.iter().any(|event| event["evaluated_permission"] == "allow");
        prop_assert!(open || said("allow"), "{} ran without a word for it", call.id);
        prop_assert!(uses.iter().any(|event| event["evaluated_permission"] != "deny"), "{} was denied", call.id);
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens_a_tool_use_runs_at_most_once_alone_and_permitted(steps in steps()) {
        let (mut machine, mut world, mut ended) = (Machine::after(&[]), World::default(), false);
        for step in steps {
            match step {
                Step::Live(event) => {
                    world.log.push(event.clone());
                    machine.sees(event);
                }
                Step::Reread(history) => {
                    let log = world.log.clone();
                    machine.reads(&log, history);
                }
                Step::Finish => if let Some(id) = world.running.take() {
                    machine.finishes(&id);
                    world.settled.insert(id);
                },
                Step::Fail => if let Some(id) = world.running.take() {
                    machine.put(Input::Ran { id: id.clone() }).put(Input::Undelivered { id });
                },
                Step::Wait(seconds) => {
                    machine.waits(seconds);
                }
            }
            for effect in std::mem::take(&mut machine.effects) {
                prop_assert!(!ended, "an effect after the end: {:?}", effect);
                match effect {
                    Effect::Run(call) => {
                        world.check_run(&call)?;
                        world.running = Some(call.id);
                    }
                    Effect::Post { .. } => {}
                    Effect::End(_) => ended = true,
                }
            }
        }
    }

    #[test]
    fn an_event_of_any_shape_is_read_without_a_panic(kind in "[a-z._]{0,30}", id in any::<Option<u8>>()) {
        let mut event = Map::new();
        event.insert("type".into(), json!(kind));
        event.insert("id".into(), json!(id));
        event.insert("input".into(), json!([1]));
        let _ = SessionEvent::read(&Value::Object(event));
        let _ = SessionEvent::read(&json!([kind]));
    }
}

#[test]
fn the_tool_use_of_an_answer_is_looked_for_among_the_newest() {
    for (between, is_found) in [(NEWEST - 1, true), (NEWEST, false)] {
        let later = (0..between).map(|number| tool(&format!("later_{number}")));
        let history: Vec<_> = std::iter::once(tool("first")).chain(later).chain([result("first")]).collect();
        let mut machine = Machine::after(&history);
        assert_eq!(machine.dispatch.worked_before(), is_found, "{between}");
        assert_eq!(machine.said(), ["run later_0"], "what is answered does not run again");
    }
}
