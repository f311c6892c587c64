//! Agents that work for another: starting one in a thread of its own, speaking to it, hearing what it found.
//!
//! The tools are the coordinator's; this server answers them at once, but for the one that asks an advisor. What one thread says to another is in the logs of
//! both, and goes into the other's conversation with its next model request.

use postern_model::agent::{ASK_ADVISOR, MESSAGE_AGENT, START_AGENT, ThreadAgent, WORKFLOW_TOOLS};
use postern_model::content::Block;
use postern_model::event::{Audience, EventBody};
use postern_model::ids::{EventId, ThreadId};
use postern_model::session::{SessionAgent, SessionStatus};
use serde_json::{Map, Value, json};

use crate::advise;
use crate::inline::{self, Definition, INLINE};
use crate::machine::Step;
use crate::marks;
use crate::session::Session;
use crate::thread::Thread;
use crate::workflow;

/// How many threads may work for a session at once.
pub const MOST_THREADS: usize = 25;
/// The longest message from one thread to another, in characters.
const LONGEST_MESSAGE: usize = 100_000;
/// What an agent is reported to have said that ended its turn without a word.
const NOTHING_SAID: &str = "(The agent ended its turn without saying anything.)";

/// What a coordinator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// An agent is to work at something.
    Start { agent: String, message: String },
    /// An agent that it defines is to work at something.
    Define { agent: Definition, message: String },
    /// Something is to be said to one that was started.
    Tell { thread: String, message: String },
    /// The advisor is asked.
    Ask { question: String },
    /// Something of a run of a workflow.
    Workflow(workflow::Command),
}

impl Order {
    /// Reads a call of one of the coordinator's tools.
    ///
    /// # Errors
    /// What the model is told.
    pub(crate) fn read(tool: &str, input: &Map<String, Value>) -> Result<Self, String> {
        if let Some(command) = workflow::Command::read(tool, input) {
            return Ok(Self::Workflow(command));
        }
        let text = |key: &str| {
            let text = input.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
            text.map(str::to_owned)
                .ok_or_else(|| format!("`{tool}` needs `{key}`, a text that is not empty. Call it again."))
        };
        let message = |key: &str| {
            text(key).and_then(|message| match message.chars().count() {
                0..=LONGEST_MESSAGE => Ok(message),
                _ => Err(format!("`{key}` may have {LONGEST_MESSAGE} characters. Say it in fewer.")),
            })
        };
        match tool {
            START_AGENT if input.contains_key(INLINE) => {
                let message = message("message")?;
                if input.contains_key("agent") {
                    return Err(format!("Give `agent` or `{INLINE}`, not both. Call it again."));
                }
                Ok(Self::Define { message, agent: Definition::read(&input[INLINE])? })
            }
            START_AGENT => Ok(Self::Start { message: message("message")?, agent: text("agent")? }),
            ASK_ADVISOR => Ok(Self::Ask { question: message("question")? }),
            _ => Ok(Self::Tell { message: message("message")?, thread: text("session_thread_id")? }),
        }
    }
}

/// Whether a tool is one of a coordinator's, for an agent that is one.
pub(crate) fn is_order(agent: &SessionAgent, tool: &str) -> bool {
    names(agent).contains(&tool)
}

/// The names of a coordinator's tools; empty for any other agent.
pub(crate) fn names(agent: &SessionAgent) -> Vec<&'static str> {
    let starts = !agent.roster().is_empty() || agent.defines_agents();
    let of_roster = if starts { &[START_AGENT, MESSAGE_AGENT][..] } else { &[] };
    let of_workflows = if agent.of_workflows().is_some() { &WORKFLOW_TOOLS[..] } else { &[] };
    of_roster.iter().copied().chain(agent.advisor().map(|_| ASK_ADVISOR)).chain(of_workflows.iter().copied()).collect()
}

/// The tools of a coordinator, as its model is told of them; empty for any other agent.
pub fn definitions(agent: &SessionAgent) -> Vec<Value> {
    let of_workflows = workflow::definitions(agent);
    of_roster(agent).into_iter().chain(agent.advisor().map(|_| of_advisor())).chain(of_workflows).collect()
}

fn of_advisor() -> Value {
    json!({
        "name": ASK_ADVISOR,
        "description": "Ask another model for advice: before you settle on a way through something hard, when you are stuck, or before \
                        you call something done. It is shown how your work went so far and answers once; it has no tools. \
                        Advice is no permission: what you may do stays as it is.",
        "input_schema": object(json!({"question": {"type": "string"}}), &["question"]),
    })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn of_roster(agent: &SessionAgent) -> Vec<Value> {
    let roster: Vec<&SessionAgent> = agent.roster().iter().map(ThreadAgent::agent).collect();
    if roster.is_empty() && !agent.defines_agents() {
        return Vec::new();
    }
    let names: Vec<&str> = roster.iter().map(|member| member.name.as_str()).collect();
    let lines: Vec<String> = roster
        .iter()
        .map(|member| format!("- {}: {}", member.name, member.description.as_deref().unwrap_or("(no description)")))
        .collect();
    let start = format!(
        "Have another agent work at something, in a thread of its own beside yours. It knows nothing of your conversation: the \
         message must say all that it needs. It works while you go on; end your turn when nothing is left to do until it \
         answers. What it says at the end of its turn comes to you as a message. At most {MOST_THREADS} agents at once. {}",
        match (lines.is_empty(), agent.defines_agents()) {
            (false, false) => format!("The agents:\n{}", lines.join("\n")),
            (false, true) => format!("Name one of these agents, or define one in `{INLINE}`:\n{}", lines.join("\n")),
            (true, _) => format!("Define it in `{INLINE}`; it has your tools."),
        }
    );
    let text = json!({"type": "string"});
    let mut whom = Map::new();
    if !names.is_empty() {
        whom.insert("agent".into(), json!({"type": "string", "enum": names}));
    }
    if agent.defines_agents() {
        whom.insert(INLINE.into(), inline::schema(agent));
    }
    // Of two ways to say whom, either will do.
    let mut required: Vec<&str> = whom.keys().map(String::as_str).filter(|_| whom.len() == 1).collect();
    required.push("message");
    let properties: Map<String, Value> =
        whom.clone().into_iter().chain([("message".to_owned(), text.clone())]).collect();
    vec![
        json!({
            "name": START_AGENT,
            "description": start,
            "input_schema": object(properties.into(), &required),
        }),
        json!({
            "name": MESSAGE_AGENT,
            "description": "Say something to an agent that you started, by the id of its thread: it goes on from what it knows. \
                            One that works hears it before its next step.",
            "input_schema": object(json!({"session_thread_id": text, "message": text}), &["session_thread_id", "message"]),
        }),
    ]
}

impl Session {
    /// How many agents work for the primary thread's.
    fn working(&self) -> usize {
        let agents = self.children().iter().filter(|thread| thread.question().is_none() && thread.errand().is_none());
        agents.filter(|thread| thread.state.status != SessionStatus::Terminated).count()
    }
}

impl Step<'_> {
    /// Does what the coordinator wants, and answers its call where no advisor will.
    pub(crate) fn obey(&mut self, call: EventId, order: Order) {
        let (text, is_error) = match self.carry_out(&call, order) {
            // The advisor will.
            Ok(None) => return,
            Ok(Some(text)) => (text, false),
            Err(text) => (text, true),
        };
        let content = Some(vec![Block::text(text)]);
        self.append(EventBody::AgentToolResult { tool_use_id: call, content, is_error: Some(is_error) });
    }

    fn carry_out(&mut self, call: &EventId, order: Order) -> Result<Option<String>, String> {
        let (at, message, text) = match order {
            Order::Define { agent, message } => {
                let at = self.define_agent(agent)?;
                let text = self.started(at);
                (at, message, text)
            }
            Order::Workflow(command) => return self.command(command).map(Some),
            Order::Ask { question } => return self.ask_advisor(call, question).map(|()| None),
            Order::Start { agent, message } => {
                let at = self.start_thread(&agent)?;
                let text = self.started(at);
                (at, message, text)
            }
            Order::Tell { thread, message } => (self.child(&thread)?, message, "The message was sent.".to_owned()),
        };
        self.send(at, vec![Block::text(message)]);
        self.on(at, Self::settle);
        Ok(Some(text))
    }

    /// What the coordinator is told of a thread that begins.
    fn started(&self, at: usize) -> String {
        let Thread { agent, id, .. } = &self.session.threads[at];
        let name = &agent.name;
        format!("`{name}` works in thread {id}. What it says at the end of its turn comes to you as a message.")
    }

    fn define_agent(&mut self, definition: Definition) -> Result<usize, String> {
        let own = &self.thread().agent;
        definition.check(own, own.defines_agents(), own.roster())?;
        self.must_have_room()?;
        let session_thread_id = self.chance.thread_id();
        let (agent_name, workflow_run_id) = (definition.name.clone(), None);
        let created = EventBody::ThreadCreated { agent_name, session_thread_id, workflow_run_id };
        self.append_with(created, marks::inline(&definition));
        Ok(self.session.threads.len() - 1)
    }

    fn must_have_room(&self) -> Result<(), String> {
        match self.session.working() {
            0..MOST_THREADS => Ok(()),
            _ => Err(format!(
                "{MOST_THREADS} agents were started and not archived, which is the most. Go on with those, with `{MESSAGE_AGENT}`."
            )),
        }
    }

    fn start_thread(&mut self, name: &str) -> Result<usize, String> {
        let roster = self.thread().agent.roster();
        if !roster.iter().any(|member| member.agent().name == name) {
            let names: Vec<_> = roster.iter().map(|member| member.agent().name.as_str()).collect();
            return Err(format!("There is no agent `{name}`. Use one of: {}.", names.join(", ")));
        }
        self.must_have_room()?;
        let session_thread_id = self.chance.thread_id();
        let (agent_name, workflow_run_id) = (name.to_owned(), None);
        self.append(EventBody::ThreadCreated { agent_name, session_thread_id, workflow_run_id });
        Ok(self.session.threads.len() - 1)
    }

    fn child(&self, thread: &str) -> Result<usize, String> {
        let children = self.session.threads.iter().enumerate().skip(1);
        match children.into_iter().find(|(_, child)| child.id.as_str() == thread) {
            Some((_, child)) if child.question().is_some() => Err(advise::no_messages(thread)),
            Some((_, child)) if child.errand().is_some() => {
                Err(format!("Thread {thread} is of a workflow run, whose program alone speaks to it."))
            }
            Some((_, child)) if child.state.status == SessionStatus::Terminated => {
                Err(format!("Thread {thread} is over. Start an agent anew with `{START_AGENT}`."))
            }
            Some((at, _)) => Ok(at),
            None => Err(format!("There is no thread {thread}. Start an agent with `{START_AGENT}`.")),
        }
    }

    /// Says something to another thread, which hears it with its next model request. One that rests goes on with it when
    /// it is settled.
    pub(crate) fn send(&mut self, to: usize, content: Vec<Block>) {
        let from = self.at;
        let name = |at: usize| (at > 0).then(|| self.session.threads[at].agent.name.clone());
        let id = |at: usize| self.session.threads[at].id.clone();
        let (from_agent_name, to_agent_name) = (name(from), name(to));
        let (from_session_thread_id, to_session_thread_id) = (id(from), id(to));
        let sent = EventBody::ThreadMessageSent { content: content.clone(), to_session_thread_id, to_agent_name };
        self.append(sent);
        let received = EventBody::ThreadMessageReceived { content, from_session_thread_id, from_agent_name };
        self.on(to, |step| drop(step.append(received)));
    }

    /// Tells the coordinator what came of the turn that ends here, which it goes on with.
    pub(crate) fn report(&mut self) {
        if !self.is_primary() {
            let said = self.state().said.clone();
            self.send(0, if said.is_empty() { vec![Block::text(NOTHING_SAID)] } else { said });
            self.on(0, Self::settle);
        }
    }

    /// Tells the coordinator in our own words that nothing will come.
    pub(crate) fn report_failure(&mut self, text: &str) {
        if !self.is_primary() {
            self.send(0, vec![Block::text(format!("[{text}]"))]);
        }
    }

    /// Ends this thread for good.
    pub(crate) fn terminate(&mut self) {
        let (agent_name, session_thread_id) = self.named();
        self.append(EventBody::ThreadStatusTerminated { agent_name, session_thread_id });
    }

    /// Ends a thread that rests; its calls are never answered by anybody any more.
    pub(crate) fn archive_thread(&mut self) {
        self.close_calls("The thread was archived before the tool was run.");
        self.terminate();
        self.session_rests_otherwise();
    }

    /// Who is shown an event of this thread. What another thread does is shown to those who watch the session as far as it
    /// concerns them: what it comes to, and the calls that wait for somebody with what is said of them (contract 3.13).
    pub(crate) fn audience(&self, body: &EventBody) -> Audience {
        let is_posted = |call: &EventId| self.state().calls.find(call).is_some_and(|call| call.is_posted);
        let is_shown = self.is_primary()
            || match body {
                EventBody::ThreadStatusRunning { .. }
                | EventBody::ThreadStatusRescheduled { .. }
                | EventBody::ThreadStatusTerminated { .. }
                | EventBody::ThreadStatusIdle { .. }
                | EventBody::UserInterrupt { .. }
                | EventBody::UserToolConfirmation { .. } => true,
                EventBody::AgentToolUse { session_thread_id, .. }
                | EventBody::AgentMcpToolUse { session_thread_id, .. }
                | EventBody::AgentCustomToolUse { session_thread_id, .. } => session_thread_id.is_some(),
                EventBody::UserToolResult { tool_use_id: call, .. }
                | EventBody::UserCustomToolResult { custom_tool_use_id: call, .. }
                | EventBody::AgentToolResult { tool_use_id: call, .. }
                | EventBody::AgentMcpToolResult { mcp_tool_use_id: call, .. } => is_posted(call),
                _ => false,
            };
        if is_shown { Audience::Session } else { Audience::Thread }
    }

    /// What a call says of its thread that waits for somebody who watches the session.
    pub(crate) fn posted(&self) -> Option<ThreadId> {
        (!self.is_primary()).then(|| self.thread().id.clone())
    }
}
