//! The engine over a real database and a scripted model.
