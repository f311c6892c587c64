//! A complete response becomes events: all of them in one transaction, so that a crash leaves all or nothing.

use postern_model::content::Block;
use postern_model::event::{Evaluation, EventBody, Permission, Previewable, SessionErrorKind, StopReason};
use postern_model::ids::{EventId, ThreadId};
use serde_json::{Map, Value, json};

use crate::context::Purpose;
use crate::coordinate::Order;
use crate::input::{Deed, Effect, Response, ResponseBlock, Stop};
use crate::judge::{Aside, Verdict, Verdicts};
use crate::machine::Step;
use crate::tools::{McpName, Ruling};

/// What became of a response's blocks.
#[derive(Default)]
struct Rendered {
    /// The blocks as they go back to the model.
    kept: Vec<Value>,
    /// The message that is being put together: its id and text blocks.
    message: Option<(Option<EventId>, Vec<Block>)>,
    /// Calls that are answered at once, with the text.
    refused: Vec<(EventId, String)>,
    /// Calls of a coordinator's tools, which are obeyed at once.
    orders: Vec<(EventId, Order)>,
    /// What a judge said of the calls.
    verdicts: Verdicts,
}

impl Step<'_> {
    pub(crate) fn finished(&mut self, start: &EventId, response: Response) {
        if let Some(response) = self.judge(start, response) {
            self.finish(start, response, Verdicts::new(), None);
        }
    }

    /// Puts a response into the log, with what a judge said of its calls and what that cost.
    pub(crate) fn finish(&mut self, start: &EventId, response: Response, verdicts: Verdicts, aside: Option<Aside>) {
        let mut rendered = Rendered { verdicts, ..Rendered::default() };
        let had_queue = !self.state().queue.is_empty() || self.state().has_mail();
        let refusal = matches!(response.stop, Stop::Refusal(_));
        for (index, block) in response.blocks {
            self.render(index, block, refusal, &mut rendered);
        }
        self.finish_message(&mut rendered);
        // A refused answer stays out of the conversation: with it in, the endpoint would refuse every later turn too.
        let kept = if refusal { Vec::new() } else { rendered.kept };
        self.end_well(start, response.usage, kept);
        if let Some(aside) = aside {
            self.record(&aside);
        }
        for (call, text) in rendered.refused {
            self.refuse(call, text);
        }
        for (call, order) in rendered.orders {
            self.obey(call, order);
        }
        self.go_on(response.stop, had_queue);
    }

    fn go_on(&mut self, stop: Stop, had_queue: bool) {
        match stop {
            Stop::Refusal(details) => {
                if let Some(call) = self.question() {
                    return self.advised_nothing(&call, "The advisor refused to answer.");
                }
                if let Some(errand) = self.thread().errand().cloned() {
                    return self.returned_nothing(&errand, "the model refused.");
                }
                self.report_failure("The model refused to go on with this. The agent can be told something else.");
                if !self.is_primary() {
                    self.on(0, Self::settle);
                }
                self.idle(StopReason::Refusal {}, details);
                // A message that waited begins the next turn.
                self.settle();
            }
            _ if !self.state().calls.is_empty() || self.answered_at_once() => self.settle(),
            Stop::PauseTurn => self.settle(),
            Stop::ToolUse | Stop::EndTurn if had_queue => self.settle(),
            Stop::ToolUse | Stop::EndTurn => self.end_of_turn(),
            Stop::MaxTokens => self.exhausted(
                SessionErrorKind::ModelRequestFailedError,
                "The model's answer reached the limit of output tokens and is cut. Send a message to go on.".into(),
            ),
            Stop::ContextExceeded => {
                self.outgrew(Purpose::Turn, "The conversation has outgrown the model's context window.");
            }
        }
    }

    /// Whether the last thing said is an answer to a call, which the model has not seen yet.
    fn answered_at_once(&self) -> bool {
        let last = self.state().conversation.messages().last().and_then(|message| message.content.last());
        last.is_some_and(|block| block["type"] == "tool_result")
    }

    fn render(&mut self, index: usize, block: ResponseBlock, refusal: bool, rendered: &mut Rendered) {
        if let ResponseBlock::Text(text) = block {
            if text.is_empty() {
                return;
            }
            if !text.trim().is_empty() {
                rendered.kept.push(json!({"type": "text", "text": text}));
            }
            let announced = || self.thread().previews.id(Previewable::Message, index);
            rendered.message.get_or_insert_with(|| (announced(), Vec::new())).1.push(Block::text(text));
            return;
        }
        self.finish_message(rendered);
        match block {
            ResponseBlock::Text(_) => {}
            ResponseBlock::Thinking(whole) => {
                rendered.kept.push(whole);
                let announced = self.thread().previews.id(Previewable::Thinking, index);
                let id = announced.unwrap_or_else(|| self.chance.event_id());
                self.append_as(id, EventBody::AgentThinking {});
            }
            ResponseBlock::Other(whole) => rendered.kept.push(whole),
            ResponseBlock::ToolUse { .. } if refusal => {}
            ResponseBlock::ToolUse { name, input } => self.call(index, name, input, rendered),
        }
    }

    fn finish_message(&mut self, rendered: &mut Rendered) {
        if let Some((id, content)) = rendered.message.take() {
            let id = id.unwrap_or_else(|| self.chance.event_id());
            self.append_as(id, EventBody::AgentMessage { content });
        }
    }

    fn call(&mut self, index: usize, name: String, input: Result<Map<String, Value>, String>, rendered: &mut Rendered) {
        let verdict = rendered.verdicts.get(&index);
        let ruling = self.permissions().rule(&name, &self.thread().servers);
        let ruling = match &input {
            Ok(_) => ruling,
            Err(cause) => {
                ruling.refused(format!("The input of `{name}` is not a JSON object: {cause}. Call it again."))
            }
        };
        let input = input.unwrap_or_default();
        let block = json!({"type": "tool_use", "name": name, "input": input});
        let posted = self.posted();
        let (body, refusal) = match ruling {
            Ruling::Worker(permission, evaluation) => {
                let (permission, evaluation) = judged(permission, evaluation, verdict);
                let posted = posted.filter(|_| permission != Permission::Deny);
                (tool_use(name, input, permission, Some(evaluation), posted), verdict.and_then(Verdict::refusal))
            }
            Ruling::Custom => (EventBody::AgentCustomToolUse { name, input, session_thread_id: posted }, None),
            Ruling::Coordinator => {
                let order = Order::read(&name, &input);
                let body = tool_use(name, input, Permission::Allow, Some(Evaluation::AlwaysAllow {}), None);
                let id = self.append(body);
                rendered.kept.push(with_id(block, &id));
                match order {
                    Ok(order) => rendered.orders.push((id, order)),
                    Err(text) => rendered.refused.push((id, text)),
                }
                return;
            }
            Ruling::Server(of, permission, evaluation) => {
                let (permission, evaluation) = judged(permission, evaluation, verdict);
                let posted = posted.filter(|_| permission == Permission::Ask);
                (mcp_use(of, input, permission, Some(evaluation), posted), verdict.and_then(Verdict::refusal))
            }
            Ruling::Web(permission, evaluation) => {
                let (permission, evaluation) = judged(permission, evaluation, verdict);
                let posted = posted.filter(|_| permission == Permission::Ask);
                (tool_use(name, input, permission, Some(evaluation), posted), verdict.and_then(Verdict::refusal))
            }
            Ruling::Refused(text) => (tool_use(name, input, Permission::Deny, None, None), Some(text)),
            Ruling::RefusedServer(of, text) => (mcp_use(of, input, Permission::Deny, None, None), Some(text)),
        };
        let id = self.append(body);
        // The event's id is the call's id everywhere: for clients, workers and the model.
        rendered.kept.push(with_id(block, &id));
        rendered.refused.extend(refusal.map(|text| (id, text)));
    }

    fn end_well(&mut self, start: &EventId, usage: postern_model::event::ModelUsage, kept: Vec<Value>) {
        self.end_request(start, usage, false);
        let Some(Deed { effect: Effect::Append(end, _), .. }) = self.deeds.last() else { return };
        let end = end.id.clone();
        self.thread_mut().state.keep(kept.clone());
        self.push(Effect::Keep(end, kept));
    }
}

fn judged(permission: Permission, evaluation: Evaluation, verdict: Option<&Verdict>) -> (Permission, Evaluation) {
    verdict.map_or((permission, evaluation), |verdict| (verdict.permission, verdict.evaluation()))
}

fn tool_use(
    name: String,
    input: Map<String, Value>,
    permission: Permission,
    evaluation: Option<Evaluation>,
    session_thread_id: Option<ThreadId>,
) -> EventBody {
    EventBody::AgentToolUse { name, input, evaluated_permission: Some(permission), evaluation, session_thread_id }
}

fn mcp_use(
    of: McpName,
    input: Map<String, Value>,
    permission: Permission,
    evaluation: Option<Evaluation>,
    session_thread_id: Option<ThreadId>,
) -> EventBody {
    let McpName { server: mcp_server_name, tool: name } = of;
    EventBody::AgentMcpToolUse {
        mcp_server_name,
        name,
        input,
        evaluated_permission: Some(permission),
        evaluation,
        session_thread_id,
    }
}

fn with_id(mut block: Value, id: &EventId) -> Value {
    block["id"] = id.as_str().into();
    block
}
