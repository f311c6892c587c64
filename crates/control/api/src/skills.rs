//! What a client uploads as a skill: its files checked, its instructions read, its archive made; and the shape in which it is shown.
//! Nothing here knows a store.

mod archive;
mod bundle;
mod frontmatter;
mod shape;

pub(crate) use bundle::{Bundle, Collector};
pub(crate) use shape::Shape;
