//! Behaviour of the queue.
