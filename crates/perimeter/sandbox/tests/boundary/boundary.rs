//! What holds, by what is held: each test asks from inside and fails when its control is taken away.

mod calls;
mod files;
mod life;
mod limits;
mod network;
mod processes;
