//! A value written in the file where a key takes several kinds.

use std::fmt;

/// A string, a number, a truth, or an array of these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Text(String),
    Integer(i64),
    /// Finite.
    Float(f64),
    Flag(bool),
    List(Vec<Literal>),
}

impl Literal {
    /// How deep arrays may stand in arrays.
    pub(crate) const DEEPEST: usize = 4;
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(items) => {
                let shown: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", shown.join(", "))
            }
        }
    }
}
