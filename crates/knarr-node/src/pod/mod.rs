//! The life of a pod: what is wanted ([`spec`]), what is seen ([`observed`], [`look`]), what to do about it ([`decide`]),
//! what to tell the API ([`status`], [`patch`]); and the one who does it ([`actor`], with [`start`], [`kill`], [`sandbox`]).

pub mod actor;
mod conditions;
mod container_status;
pub mod decide;
pub mod kill;
pub mod look;
pub mod observed;
pub mod patch;
pub mod resize;
pub mod resources;
pub mod sandbox;
pub mod spec;
pub mod start;
pub mod status;
pub mod work;
