//! `postern zone explain`: the zone's own answer to one request, and what led to it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;

use postern_policy::zone::{Account, CedarWord, Explanation};
use postern_policy::{
    Connect, ConnectPermit, Denial, DialPermit, McpCall, PassPermit, Permit, Scheme, Target, Transport, Zone,
};
use serde_json::{Value, json};

use super::question::{self, Question};
use super::selection;
use crate::cli::ExplainArguments;
use crate::config;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// [`Failure::Denied`] when the answer is no.
#[expect(clippy::print_stdout, reason = "the explanation is the command's result")]
pub(crate) fn run(arguments: &ExplainArguments) -> Result<(), Failure> {
    let file = arguments.config.as_deref().unwrap_or(Path::new("postern.toml"));
    let configuration = config::read_file(file)?;
    let asked = question::read(arguments)?;
    let answer = match (selection::zone(&configuration.zones, &arguments.session)?, asked) {
        (Err(denial), _) | (Ok(_), Err(denial)) => Answer::before_any_rule(denial),
        (Ok(zone), Ok(question)) => {
            let shadow = zone.candidate().map(|candidate| Answer::of(candidate, &question, arguments.address));
            Answer { shadow: shadow.map(Box::new), ..Answer::of(&zone, &question, arguments.address) }
        }
    };
    let asked = match (&arguments.credential, &arguments.repository) {
        (Some(name), _) => format!("credential {name}"),
        (None, Some(url)) => format!("repository {url}"),
        (None, None) => arguments.request.join(" "),
    };
    if arguments.json {
        println!("{}", answer.json(&asked));
    } else {
        print!("{}", answer.text(&asked, file));
    }
    match answer.denial {
        None => Ok(()),
        Some(denial) => Err(Failure::Denied(format!("refused: {}", denial.reason.code()))),
    }
}

/// What is printed.
struct Answer {
    /// Name and digest.
    zone: Option<(String, String)>,
    /// The rule that decides, or came nearest.
    rule: Option<String>,
    line: Option<usize>,
    denial: Option<Denial>,
    accounts: Vec<Account>,
    cedar: CedarWord,
    /// `ledger-api at header authorization`.
    injected: Vec<String>,
    /// Where it would be dialled.
    dialled: Option<String>,
    /// What the zone in shadow would say, where there is one.
    shadow: Option<Box<Answer>>,
}

impl Answer {
    fn before_any_rule(denial: Denial) -> Self {
        Self {
            zone: None,
            rule: None,
            line: None,
            denial: Some(denial),
            accounts: Vec::new(),
            cedar: CedarWord::NotAsked,
            injected: Vec::new(),
            dialled: None,
            shadow: None,
        }
    }

    fn of(zone: &Zone, question: &Question, address: Option<IpAddr>) -> Self {
        match question {
            Question::Connect(connect) => Self::built(zone, connected(zone, connect), |permit| permit.rule().into()).0,
            Question::Tool(tool) => Self::built(zone, zone.explain_tool(tool), |permit| permit.rule().into()).0,
            Question::Grant(name) => {
                let explained = zone.explain_grant(name);
                let first = explained.rules.first().map(|account| account.rule.clone()).unwrap_or_default();
                let (mut answer, _) = Self::built(zone, explained, |_| first.clone().into());
                let inject = zone.credential(name).map(|credential| credential.inject.as_slice()).unwrap_or_default();
                answer.injected = inject.iter().map(|location| format!("{name} at {location}")).collect();
                answer
            }
            Question::Repository(url) => {
                let explained = zone.explain_repository(url);
                let taking = explained.rules.iter().find(|account| account.agrees());
                let first = taking.map(|account| account.rule.clone()).unwrap_or_default();
                let (mut answer, permit) = Self::built(zone, explained, |_| first.clone().into());
                let token = |_| format!("the token of {url} at basic password, for git's requests to it alone");
                answer.injected = permit.map(token).into_iter().collect();
                answer
            }
            Question::Mcp { server, method, tool, arguments } => {
                let call = McpCall { route: server, method, tool: tool.as_deref(), arguments: arguments.as_ref() };
                Self::built(zone, zone.explain_mcp(&call), |permit| permit.rule().into()).0
            }
            Question::Request(request) => {
                let unseen = (request.scheme == Scheme::Https).then(|| zone.explain_pass(&request.host, request.port));
                if let Some(explained) = unseen.flatten() {
                    return Self::unseen(zone, explained, address);
                }
                let (mut answer, permit) =
                    Self::built(zone, zone.explain_request(request), |permit| permit.rule().into());
                if let Some(permit) = permit {
                    answer.permitted(&permit, address);
                }
                answer
            }
        }
    }

    /// Name and address are decided, and nothing else of the request is looked at.
    fn unseen(zone: &Zone, explained: Explanation<PassPermit>, given: Option<IpAddr>) -> Self {
        let (mut answer, permit) = Self::built(zone, explained, |permit| permit.rule().into());
        if let Some(permit) = permit {
            answer.judged(permit.target(), given, |address| permit.dial(address));
            let unseen = "uninspected: nothing in it is decided, injected or scrubbed";
            answer.dialled = answer.dialled.map(|dialled| format!("{dialled}; {unseen}"));
        }
        answer
    }

    fn built<P, R>(zone: &Zone, explained: Explanation<P>, rule_of: R) -> (Self, Option<P>)
    where
        R: for<'p> Fn(&'p P) -> Cow<'p, str>,
    {
        let Explanation { decided, rules, cedar } = explained;
        let rule = match &decided {
            Ok(permit) => Some(rule_of(permit).into_owned()),
            Err(denial) => denial.rule.clone(),
        };
        let line = rule.as_deref().and_then(|rule| zone.line_of(rule));
        let (denial, permit) = match decided {
            Ok(permit) => (None, Some(permit)),
            Err(denial) => (Some(denial), None),
        };
        let zone = Some((zone.name().to_owned(), zone.digest().to_owned()));
        let answer = Self {
            zone,
            rule,
            line,
            denial,
            accounts: rules,
            cedar,
            injected: Vec::new(),
            dialled: None,
            shadow: None,
        };
        (answer, permit)
    }

    /// What follows a permit: injection, and the judgement of the address.
    fn permitted(&mut self, permit: &Permit, given: Option<IpAddr>) {
        self.injected = permit
            .injections()
            .iter()
            .map(|injection| format!("{} at {}", injection.credential(), injection.location()))
            .collect();
        self.judged(permit.target(), given, |address| permit.dial(address));
    }

    /// Where it would be dialled, and whether it may be, as far as that is known.
    fn judged(
        &mut self,
        target: Target,
        given: Option<IpAddr>,
        dial: impl FnOnce(IpAddr) -> Result<DialPermit, Denial>,
    ) {
        let (address, what) = match (target, given) {
            (Target::Address(fixed), _) => (Some(fixed.ip()), fixed.to_string()),
            (Target::Resolve(host, port), Some(given)) => (Some(given), format!("{host}:{port} at {given}")),
            (Target::Resolve(host, port), None) => (None, format!("{host}:{port}")),
        };
        self.dialled = Some(match address.map(dial) {
            None => format!("{what}; each address it resolves to is judged then (try --address)"),
            Some(Ok(_)) => format!("{what}; the address is allowed"),
            Some(Err(denial)) => {
                self.denial = Some(denial);
                what
            }
        });
    }

    fn text(&self, asked: &str, file: &Path) -> String {
        let place = match (&self.rule, self.line) {
            (Some(rule), Some(line)) => format!(" by {rule} ({}:{line})", file.display()),
            (Some(rule), None) => format!(" by {rule}"),
            (None, _) => String::new(),
        };
        let mut lines = vec![match &self.denial {
            None => format!("allowed{place}"),
            Some(denial) => format!("REFUSED {}{place}", denial.reason.code()),
        }];
        lines.push(format!("  asked     {asked}"));
        if let Some((name, digest)) = &self.zone {
            lines.push(format!("  zone      {name}, {digest}"));
        }
        for account in &self.accounts {
            lines.push(format!("  rule      {}", one_rule(account, self.rule.as_deref())));
        }
        if self.zone.is_some() && self.accounts.is_empty() {
            lines.push("  rule      none speaks of this".to_owned());
        }
        lines.extend(self.injected.iter().map(|what| format!("  inject    {what}")));
        lines.extend(self.dialled.iter().map(|where_to| format!("  dial      {where_to}")));
        lines.push(format!("  cedar     {}", word(&self.cedar)));
        if let Some((shadow, name)) = self.shadow.as_ref().and_then(|shadow| Some((shadow, &shadow.zone.as_ref()?.0))) {
            let rule = shadow.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
            let verdict = shadow.denial.as_ref().map_or("would allow it", |_| "would REFUSE it");
            let reason = shadow.denial.as_ref().map(|denial| format!(" {}", denial.reason.code())).unwrap_or_default();
            lines.push(format!("  shadow    zone {name} {verdict}{reason}{rule}; it decides nothing"));
        }
        if let Some(denial) = &self.denial {
            lines.push(format!("  next      {}", denial.next_step));
            if denial.alarm {
                lines.push("  alarm     yes: someone is told".to_owned());
            }
        }
        lines.join("\n") + "\n"
    }

    fn json(&self, asked: &str) -> Value {
        let rules: Vec<Value> = self
            .accounts
            .iter()
            .map(|account| {
                let matchers: Value = account
                    .matchers
                    .iter()
                    .map(|(name, agrees)| ((*name).to_owned(), json!(agrees)))
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                json!({"rule": account.rule, "line": account.line, "matchers": matchers})
            })
            .collect();
        json!({
            "asked": asked,
            "verdict": if self.denial.is_none() { "allowed" } else { "refused" },
            "zone": self.zone.as_ref().map(|(name, _)| name),
            "shadow": self.shadow.as_ref().map(|shadow| shadow.json(asked)),
            "digest": self.zone.as_ref().map(|(_, digest)| digest),
            "rule": self.rule,
            "line": self.line,
            "reason": self.denial.as_ref().map(|denial| denial.reason.code()),
            "next_step": self.denial.as_ref().map(|denial| &denial.next_step),
            "alarm": self.denial.as_ref().is_some_and(|denial| denial.alarm),
            "rules": rules,
            "inject": self.injected,
            "dial": self.dialled,
            "cedar": word_json(&self.cedar),
        })
    }
}

/// The answer before anything is read; where that is yes, the one to what would be read then, if none of it may pass.
fn connected(zone: &Zone, connect: &Connect) -> Explanation<ConnectPermit> {
    let unread = zone.explain_connect(connect);
    let Ok(permit) = &unread.decided else { return unread };
    let read = permit.schemes().iter().map(|scheme| {
        let transport = match scheme {
            Scheme::Https => Transport::Tls,
            Scheme::Http => Transport::Http,
        };
        zone.explain_connect(&Connect { transport, ..connect.clone() })
    });
    let read: Vec<_> = read.collect();
    let refused = read.iter().all(|explained| explained.decided.is_err());
    read.into_iter().next().filter(|_| refused).unwrap_or(unread)
}

fn one_rule(account: &Account, decided: Option<&str>) -> String {
    let line = account.line.map(|line| format!(" line {line}")).unwrap_or_default();
    let said: Vec<String> = account
        .matchers
        .iter()
        .map(|(name, agrees)| format!("{name} {}", if *agrees { "yes" } else { "NO" }))
        .collect();
    let mark = if decided == Some(account.rule.as_str()) { "  <-" } else { "" };
    format!("{}{line}: {}{mark}", account.rule, said.join(", "))
}

fn word(cedar: &CedarWord) -> String {
    match cedar {
        CedarWord::NotAsked => "not asked".to_owned(),
        CedarWord::Permitted { by, forbids } if forbids.is_empty() => format!("permit {by}"),
        CedarWord::Permitted { by, forbids } => format!("permit {by}; not forbidden by {}", forbids.join(", ")),
        CedarWord::Forbidden { by } => format!("forbid {by}"),
        CedarWord::Failed => "a policy could not be evaluated, which is a no".to_owned(),
    }
}

fn word_json(cedar: &CedarWord) -> Value {
    match cedar {
        CedarWord::NotAsked => json!({"word": "not_asked"}),
        CedarWord::Permitted { by, forbids } => json!({"word": "permit", "by": by, "forbids": forbids}),
        CedarWord::Forbidden { by } => json!({"word": "forbid", "by": by}),
        CedarWord::Failed => json!({"word": "failed"}),
    }
}

#[cfg(test)]
mod tests;
