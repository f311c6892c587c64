//! What a client uploads as a skill: its files checked, its instructions read, its archive made. Bytes in, bytes out; nothing here knows a store.

mod archive;
mod bundle;
mod frontmatter;

pub(crate) use bundle::{Bundle, Collector};
