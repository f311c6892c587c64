//! The catalogue: every probe and every control, as data that can be reviewed. Reads it and holds its rules; attempts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attempt::Names;

/// One promise of the security model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Promise {
    /// No usable upstream secret on the wrong side.
    P1,
    /// Outbound only.
    P2,
    /// One exit.
    P3,
    /// Own keys out of reach of agent code.
    P4,
    /// Decide, record, act.
    P5,
    /// A placeholder never leaves unresolved.
    P6,
    /// Nothing acknowledged is lost, nothing runs twice silently.
    P7,
    /// Never silent.
    P8,
}

impl Promise {
    /// Every promise.
    pub const ALL: [Self; 8] = [Self::P1, Self::P2, Self::P3, Self::P4, Self::P5, Self::P6, Self::P7, Self::P8];

    /// The promise in its own words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::P1 => "No usable upstream secret on the wrong side",
            Self::P2 => "Outbound only",
            Self::P3 => "One exit: the egress proxy and nowhere else",
            Self::P4 => "Own keys out of reach of agent code",
            Self::P5 => "Decide, record, act",
            Self::P6 => "A placeholder never leaves unresolved",
            Self::P7 => "Nothing acknowledged is lost, nothing runs twice silently",
            Self::P8 => "Never silent",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// How an attempt ended, in the words of `data/attack.py`: `made`, an errno's name, `refused REASON`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outcome(String);

impl Outcome {
    /// An outcome by its word.
    pub fn new(word: impl Into<String>) -> Self {
        Self(word.into())
    }

    /// Why the attempt could not be made here, if it says so.
    #[must_use]
    pub fn skipped(&self) -> Option<&str> {
        self.0.strip_prefix("skip ")
    }

    /// Whether one of ours refused it and said why.
    fn is_refusal(&self) -> bool {
        self.0.starts_with("refused ")
    }

    /// Whether it is an errno.
    fn is_error(&self) -> bool {
        let letters = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        self.0.starts_with('E') && self.0.bytes().all(letters)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Where the same attempt is made once more, to show that it would succeed without the boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// On the host, by the user that runs the perimeter.
    Host,
    /// In namespaces of its own, as their root, with nothing that confines: no filter, no dropped capability, no packet rule.
    Namespace,
    /// In the same sandbox, by a twin that goes past this one control, or is allowed.
    Inside,
    /// In the neighbour's own sandbox.
    Neighbour,
    /// In another sandbox, whose zone lends what may be lent.
    Beside,
    /// By the same program, as a role of ours that did not confine itself.
    Unconfined,
    /// At the MCP server itself, without tunnel and gateway.
    Server,
    /// At the token endpoint itself, by a client that holds the tokens, goes where it is sent and hears everything.
    Endpoint,
    /// Nowhere: it would harm this machine or cannot be had. `because` says how else the probe is shown not to be vacuous.
    Nowhere,
}

/// What is attempted: a function of `data/attack.py` and its arguments, `tool` with a tool's name and input, or `confined` with a role of ours, an attempt
/// of `postern confined` and its argument, `gateway` with a call through a tunnel, `renewal` with what is asked over a control stream,
/// `named` or `lend` with how and what a zone is to lend, or `lent` with a function of the program in the sandbox of a zone that lends.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Attempt(pub(crate) Vec<Value>);

/// One probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `area/name`.
    pub id: String,
    /// The promise that it tests.
    pub promise: Promise,
    /// The controls that it is mapped to: with any one of them gone it may turn red, with all of them gone it must.
    pub controls: Vec<String>,
    /// What it tries, in one sentence.
    pub tries: String,
    /// The attempt inside.
    pub attempt: Attempt,
    /// Shell text that prepares it inside.
    pub setup: Option<String>,
    /// The outcomes that show the boundary.
    pub inside: Vec<Outcome>,
    /// Where the control run is made.
    pub against: Against,
    /// Its attempt, where it is another one.
    pub twin: Option<Attempt>,
    /// The outcomes of the control run that show that the attempt works.
    pub outside: Vec<Outcome>,
    /// Those that show that this machine has nothing of the kind: nothing is attacked, and nothing held.
    pub absent: Vec<Outcome>,
    /// What an outcome of the control run shows that is no success, by its word.
    pub says: BTreeMap<Outcome, String>,
    /// What shows it besides, or instead.
    pub because: Option<String>,
    /// An ordinary user may be refused it outside as well: then its run shows nothing, and one as root does.
    pub root_only: bool,
    /// The controls must be whole here: a weaker form of one is another control's matter.
    pub whole: bool,
    /// The reason in the audit record of the refusal: one of these. Empty where nothing is refused that has a record.
    pub record: Vec<String>,
    /// The answer is searched for the canaries: `leaked` or `clean` is the outcome.
    pub leak: bool,
    /// It may end the sandbox, so it is attempted in a tool use of its own: `ended` is the outcome then.
    pub alone: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    area: String,
    promise: Promise,
    controls: Vec<String>,
    inside: Vec<Outcome>,
    against: Against,
    #[serde(default)]
    outside: Vec<Outcome>,
    #[serde(default)]
    absent: Vec<Outcome>,
    #[serde(default)]
    says: BTreeMap<Outcome, String>,
    because: Option<String>,
    #[serde(default)]
    each: Vec<String>,
    probe: Vec<Written>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    tries: String,
    attempt: Attempt,
    promise: Option<Promise>,
    controls: Option<Vec<String>>,
    setup: Option<String>,
    inside: Option<Vec<Outcome>>,
    against: Option<Against>,
    twin: Option<Attempt>,
    outside: Option<Vec<Outcome>>,
    absent: Option<Vec<Outcome>>,
    because: Option<String>,
    #[serde(default)]
    root_only: bool,
    #[serde(default)]
    whole: bool,
    #[serde(default)]
    record: Reasons,
    #[serde(default)]
    leak: bool,
    #[serde(default)]
    alone: bool,
    /// One probe for each of these, whose name stands for `{each}`; the area's, unless said.
    each: Option<Vec<String>>,
}

/// The reasons of a record, of which one is right: a text, or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Reasons {
    One(String),
    Several(Vec<String>),
}

impl Default for Reasons {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Reasons {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(reason) => vec![reason],
            Self::Several(reasons) => reasons,
        }
    }
}

/// One control of the boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its name: a control of `require`, a step, or a phase.
    pub name: String,
    /// What it does.
    pub does: String,
}

/// A catalogue that does not read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// An area's file.
    #[error("read the probes of {area}: {cause}")]
    Area {
        /// The file.
        area: &'static str,
        /// What the parser says.
        cause: String,
    },
    /// Something that no probe may be.
    #[error("{0}")]
    Rule(String),
}

/// The whole catalogue.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// In the order of the files.
    pub probes: Vec<Probe>,
    /// Every control that a probe can be mapped to.
    pub controls: Vec<Control>,
}

impl Catalogue {
    /// Reads the shipped catalogue.
    ///
    /// # Errors
    /// The first thing in it that breaks a rule.
    pub fn shipped() -> Result<Self, CatalogueError> {
        let controls: Vec<Control> = CONTROLS.lines().filter_map(control).collect();
        let mut probes = Vec::new();
        for (area, text) in AREAS {
            let read: Area =
                toml::from_str(text).map_err(|error| CatalogueError::Area { area, cause: error.to_string() })?;
            probes.extend(read.probes());
        }
        let catalogue = Self { probes, controls };
        catalogue.check()?;
        Ok(catalogue)
    }

    fn check(&self) -> Result<(), CatalogueError> {
        let known: BTreeSet<&str> = self.controls.iter().map(|control| control.name.as_str()).collect();
        let mut seen = BTreeMap::new();
        for probe in &self.probes {
            let rule = |broken: bool, what: &str| match broken {
                true => Err(CatalogueError::Rule(format!("probe {} {what}", probe.id))),
                false => Ok(()),
            };
            rule(seen.insert(probe.id.as_str(), ()).is_some(), "is there twice")?;
            rule(probe.controls.is_empty(), "is mapped to no control")?;
            let unknown = probe.controls.iter().find(|control| !known.contains(control.as_str()));
            rule(unknown.is_some(), &format!("names the control {unknown:?}, which is none"))?;
            rule(probe.attempt.0.is_empty() || probe.inside.is_empty(), "attempts or expects nothing")?;
            rule(probe.inside.contains(&Outcome::new("made")), "expects its attack to succeed")?;
            let any = ["error", "timed out"].map(Outcome::new).iter().any(|one| probe.inside.contains(one));
            rule(any, "takes any error for a refusal")?;
            rule(
                !probe.alone && probe.inside.contains(&Outcome::new("ended")),
                "takes the end of its sandbox for a refusal",
            )?;
            let same = probe.outside.iter().any(|one| probe.inside.contains(one));
            rule(probe.against != Against::Nowhere && same, "expects the same outside")?;
            rule(
                probe.against != Against::Nowhere && probe.outside.is_empty(),
                "does not say how the control run ends",
            )?;
            let silent = probe.outside.iter().find(|one| one.is_error() && !probe.says.contains_key(one));
            rule(silent.is_some(), &format!("does not say what {silent:?} shows, where it should have been made"))?;
            let unrecorded = probe.record.is_empty() && probe.inside.iter().any(Outcome::is_refusal);
            rule(unrecorded, "wants a refusal and no record of it")?;
            let unknown = probe.absent.iter().find(|one| probe.outside.contains(one));
            rule(unknown.is_some(), &format!("takes {unknown:?} for a success and for nothing of the kind"))?;
            rule(probe.against == Against::Nowhere && probe.because.is_none(), "does not say what shows it")?;
        }
        Ok(())
    }
}

impl Area {
    fn probes(self) -> Vec<Probe> {
        let Self { area, promise, controls, inside, against, outside, absent, says, because, each, probe } = self;
        let whole = |written: Written| Probe {
            id: format!("{area}/{}", written.id),
            promise: written.promise.unwrap_or(promise),
            controls: written.controls.unwrap_or_else(|| controls.clone()),
            tries: written.tries,
            attempt: written.attempt,
            setup: written.setup,
            inside: written.inside.unwrap_or_else(|| match &written.record.clone().all()[..] {
                [] => inside.clone(),
                reasons => reasons.iter().map(|reason| Outcome::new(format!("refused {reason}"))).collect(),
            }),
            against: written.against.unwrap_or(against),
            twin: written.twin,
            outside: written.outside.unwrap_or_else(|| outside.clone()),
            absent: written.absent.unwrap_or_else(|| absent.clone()),
            says: says.clone(),
            because: written.because.or_else(|| because.clone()),
            root_only: written.root_only,
            whole: written.whole,
            record: written.record.all(),
            leak: written.leak,
            alone: written.alone,
        };
        probe.into_iter().flat_map(|written| written.one_by_one(&each)).map(whole).collect()
    }
}

impl Written {
    fn one_by_one(self, of_area: &[String]) -> Vec<Self> {
        let each = self.each.clone().unwrap_or_else(|| of_area.to_vec());
        if each.is_empty() {
            return vec![self];
        }
        let one = |name: &String| {
            let mut names = Names::default();
            names.put("each", name);
            let (id, tries) = (names.fill_text(&self.id), names.fill_text(&self.tries));
            Self { id, tries, attempt: names.fill(&self.attempt), ..self.clone() }
        };
        each.iter().map(one).collect()
    }
}

impl Probe {
    /// The first part of its id.
    #[must_use]
    pub fn area(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }

    /// Whether a word of `--only` means it: its id, its area, its promise or one of its controls.
    #[must_use]
    pub fn is_meant_by(&self, word: &str) -> bool {
        self.id == word
            || self.area() == word
            || self.promise.to_string() == word
            || self.controls.iter().any(|control| control == word)
    }

    /// How it is shown that its pass is not empty, for people.
    #[must_use]
    pub fn shown_by(&self) -> String {
        let run = match self.against {
            Against::Host => "the same attempt on the host, without the boundary",
            Against::Namespace => "the same attempt in namespaces of its own, with nothing that confines",
            Against::Inside => "a twin in the same sandbox that goes past this control or is allowed",
            Against::Neighbour => "the same attempt in the neighbour's own sandbox",
            Against::Beside => "the same for a zone that lends what may be lent",
            Against::Unconfined => "the same attempt by the same program, which did not confine itself",
            Against::Server => "the same message sent to the server itself, without the gateway",
            Against::Endpoint => {
                "the same exchange at the endpoint itself, by a client that holds the tokens, goes where it is sent and hears everything"
            }
            Against::Nowhere => return self.because.clone().unwrap_or_default(),
        };
        let errors =
            self.outside.iter().filter_map(|one| Some(format!("{one} there says that {}", self.says.get(one)?)));
        std::iter::once(run.to_owned()).chain(errors).chain(self.because.clone()).collect::<Vec<_>>().join("; ")
    }
}

fn control(line: &str) -> Option<Control> {
    let (name, does) = line.split_once(" -- ").filter(|_| !line.starts_with('#'))?;
    Some(Control { name: name.trim().to_owned(), does: does.trim().to_owned() })
}

const CONTROLS: &str = include_str!("../data/controls.list");

macro_rules! areas {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("../data/", $name, ".toml")))),+] };
}

const AREAS: &[(&str, &str)] = areas![
    "files",
    "proc",
    "kernel",
    "processes",
    "lent",
    "tools",
    "resources",
    "network",
    "names",
    "credentials",
    "certificates",
    "places",
    "repositories",
    "transports",
    "gateway",
    "renewals",
    "own",
    "roles",
    "holds"
];

#[cfg(test)]
mod tests;
