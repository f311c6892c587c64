//! Behaviour of agents as requests meet them.
