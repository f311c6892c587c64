//! Texts and values with `{{places}}` in them, and conditions over them: all that a workflow computes.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Where the values are from that stand in a template's places.
pub(crate) trait Values {
    /// The value that is saved as this.
    fn find(&self, name: &str) -> Option<&Value>;
}

/// How deep a value may nest that is saved or returned: whatever stores, reads or drops one does so by recursion, and a reader
/// of stored JSON takes 128 levels.
pub(crate) const DEEPEST_VALUE: usize = 64;
/// What every part of a template or condition costs, in bytes.
const PART: usize = 128;

/// Why nothing came of a template or a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is the workflow's own: for its agent.
    Program(String),
    /// What it puts together is larger than it may be.
    Size,
}

/// A value in whose texts other values have their places.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    /// A text.
    Text(Vec<Piece>),
    List(Vec<Template>),
    Object(Vec<(String, Template)>),
    /// Anything else: as it is.
    Plain(Value),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Place(Place),
}

/// What stands between the braces: a name, and the way into its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    name: String,
    way: Vec<String>,
}

impl Template {
    pub(crate) fn read(source: Value) -> Result<Self, String> {
        Ok(match source {
            Value::String(text) => Self::Text(pieces(&text)?),
            Value::Array(items) => Self::List(items.into_iter().map(Self::read).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let read = |(key, value)| Ok((key, Self::read(value)?));
                Self::Object(fields.into_iter().map(read).collect::<Result<_, String>>()?)
            }
            plain => Self::Plain(plain),
        })
    }

    /// The names that it uses.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Text(pieces) => pieces.iter().filter_map(Piece::name).collect(),
            Self::List(items) => items.iter().flat_map(Self::names).collect(),
            Self::Object(fields) => fields.iter().flat_map(|(_, value)| value.names()).collect(),
            Self::Plain(_) => Vec::new(),
        }
    }

    /// The value, which takes from `left` what it weighs in bytes.
    ///
    /// # Errors
    /// A place leads nowhere, or nothing is left.
    pub(crate) fn render(&self, values: &impl Values, left: &mut usize) -> Result<Value, Fault> {
        take(left, PART)?;
        Ok(match self {
            Self::Text(pieces) => match pieces.as_slice() {
                // Alone, it is the value itself.
                [Piece::Place(place)] => {
                    let value = place.find(values)?;
                    take(left, weight(&value))?;
                    value.into_owned()
                }
                pieces => text(pieces, values, left)?.into(),
            },
            Self::List(items) => {
                let items = items.iter().map(|item| item.render(values, left));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(fields) => {
                let mut rendered = Map::new();
                for (key, value) in fields {
                    take(left, key.len())?;
                    rendered.insert(key.clone(), value.render(values, left)?);
                }
                Value::Object(rendered)
            }
            Self::Plain(plain) => plain.clone(),
        })
    }

    /// The same as a text.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub(crate) fn render_text(&self, values: &impl Values, left: &mut usize) -> Result<String, Fault> {
        match self {
            Self::Text(pieces) => text(pieces, values, left),
            other => Ok(as_text(&other.render(values, left)?)),
        }
    }
}

fn text(pieces: &[Piece], values: &impl Values, left: &mut usize) -> Result<String, Fault> {
    let mut whole = String::new();
    for piece in pieces {
        take(left, PART)?;
        let more = match piece {
            Piece::Text(text) => text.clone(),
            Piece::Place(place) => as_text(place.find(values)?.as_ref()),
        };
        take(left, more.len())?;
        whole.push_str(&more);
    }
    Ok(whole)
}

/// Takes something from what is left.
pub(crate) fn take(left: &mut usize, bytes: usize) -> Result<(), Fault> {
    *left = left.checked_sub(bytes).ok_or(Fault::Size)?;
    Ok(())
}

/// What a value weighs, in bytes.
pub(crate) fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 8,
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 8,
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>() + 8,
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// Whether lists and objects nest deeper in one another than so many levels.
pub(crate) fn is_deeper(value: &Value, levels: usize) -> bool {
    let within = |value: &Value| is_deeper(value, levels - 1);
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(items) => items.iter().any(within),
        Value::Object(fields) => fields.values().any(within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A value as a text has it: a text as it is, anything else as JSON.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Piece {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Text(_) => None,
            Self::Place(place) => Some(&place.name),
        }
    }
}

impl Place {
    fn read(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().split('.').map(str::to_owned);
        let name = parts.next().filter(|name| !name.is_empty());
        let way: Vec<String> = parts.collect();
        match name {
            Some(name) if way.iter().all(|part| !part.is_empty()) => Ok(Self { name, way }),
            _ => {
                Err(format!("`{{{{{text}}}}}` is no place: write {{{{name}}}}, {{{{name.field}}}} or {{{{name.0}}}}."))
            }
        }
    }

    fn find<'a>(&self, values: &'a impl Values) -> Result<Cow<'a, Value>, Fault> {
        let nothing = || Fault::Program(format!("`{}` has no value yet.", self.name));
        let mut value = values.find(&self.name).ok_or_else(nothing)?;
        for part in &self.way {
            value = match value {
                // Of an agent that failed and was let go.
                Value::Null => return Ok(Cow::Owned(Value::Null)),
                Value::Object(fields) => fields.get(part),
                Value::Array(items) => part.parse().ok().and_then(|index: usize| items.get(index)),
                Value::String(_) | Value::Number(_) | Value::Bool(_) => None,
            }
            .ok_or_else(|| Fault::Program(format!("`{}` has no `{part}`.", self.name)))?;
        }
        Ok(Cow::Borrowed(value))
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((place, behind)) = after.split_once("}}") else {
            return Err("a `{{` has no `}}`.".to_owned());
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Place(Place::read(place)?));
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

const SHAPE: &str = "a condition is {\"value\": V} with one of `equals`, `contains`, `at_least`, `at_most` and `is_empty`, or \
     {\"all\": [...]}, {\"any\": [...]} or {\"not\": ...}.";

/// What a workflow goes by where it may go two ways.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Equals(Template, Template),
    Contains(Template, Template),
    AtLeast(Template, f64),
    AtMost(Template, f64),
    IsEmpty(Template, bool),
}

impl Condition {
    /// Reads one; others stand in it at most `deepest` deep.
    ///
    /// # Errors
    /// What the model is told.
    pub(crate) fn read(source: &Value, deepest: usize) -> Result<Self, String> {
        let deeper = deepest.checked_sub(1).ok_or("conditions stand too deep in one another.")?;
        let shape = || SHAPE.to_owned();
        let fields = source.as_object().ok_or_else(shape)?;
        let compared = fields.get("value");
        let mut ways = fields.iter().filter(|(key, _)| *key != "value");
        let (Some((way, with)), None) = (ways.next(), ways.next()) else { return Err(shape()) };
        let several = || -> Result<Vec<Self>, String> {
            let sources = with.as_array().ok_or_else(shape)?;
            sources.iter().map(|source| Self::read(source, deeper)).collect()
        };
        let number = || with.as_f64().ok_or_else(|| format!("`{way}` needs a number."));
        let Some(value) = compared else {
            return match way.as_str() {
                "all" => Ok(Self::All(several()?)),
                "any" => Ok(Self::Any(several()?)),
                "not" => Ok(Self::Not(Box::new(Self::read(with, deeper)?))),
                _ => Err(shape()),
            };
        };
        let value = Template::read(value.clone())?;
        Ok(match way.as_str() {
            "equals" => Self::Equals(value, Template::read(with.clone())?),
            "contains" => Self::Contains(value, Template::read(with.clone())?),
            "at_least" => Self::AtLeast(value, number()?),
            "at_most" => Self::AtMost(value, number()?),
            "is_empty" => Self::IsEmpty(value, with.as_bool().ok_or("`is_empty` needs true or false.")?),
            _ => return Err(shape()),
        })
    }

    /// The names that it uses.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::All(conditions) | Self::Any(conditions) => conditions.iter().flat_map(Self::names).collect(),
            Self::Not(condition) => condition.names(),
            Self::Equals(one, other) | Self::Contains(one, other) => {
                one.names().into_iter().chain(other.names()).collect()
            }
            Self::AtLeast(value, _) | Self::AtMost(value, _) | Self::IsEmpty(value, _) => value.names(),
        }
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// As [`Template::render`]; or something that is no number is compared with one.
    pub(crate) fn holds(&self, values: &impl Values, left: &mut usize) -> Result<bool, Fault> {
        take(left, PART)?;
        Ok(match self {
            Self::All(conditions) => {
                for condition in conditions {
                    if !condition.holds(values, left)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Any(conditions) => {
                for condition in conditions {
                    if condition.holds(values, left)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Not(condition) => !condition.holds(values, left)?,
            Self::Equals(one, other) => one.render(values, left)? == other.render(values, left)?,
            Self::Contains(whole, part) => match (whole.render(values, left)?, part.render(values, left)?) {
                (Value::Array(items), part) => items.contains(&part),
                (whole, part) => as_text(&whole).contains(&as_text(&part)),
            },
            Self::AtLeast(value, least) => number(&value.render(values, left)?)? >= *least,
            Self::AtMost(value, most) => number(&value.render(values, left)?)? <= *most,
            Self::IsEmpty(value, expected) => is_empty(&value.render(values, left)?) == *expected,
        })
    }
}

fn number(value: &Value) -> Result<f64, Fault> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number.ok_or_else(|| Fault::Program("A condition compares something with a number that is none.".to_owned()))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
