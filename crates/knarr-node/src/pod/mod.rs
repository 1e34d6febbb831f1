//! The life of a pod: what is wanted ([`spec`]), what is seen ([`observed`]), what to do about it ([`decide`]), what to
//! tell the API ([`status`]).

mod conditions;
mod container_status;
pub mod decide;
pub mod observed;
pub mod resources;
pub mod spec;
pub mod status;
