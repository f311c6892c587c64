//! What holds, by what is held: each test asks from inside and fails when its control is taken away.

mod calls;
mod checking;
mod devices;
mod files;
mod image;
mod lent;
mod life;
mod limits;
mod network;
mod packages;
mod processes;
