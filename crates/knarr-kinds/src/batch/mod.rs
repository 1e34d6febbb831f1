//! Jobs and CronJobs.

pub mod cronjob;
mod indexes;
pub mod job;
pub mod schedule;
pub mod timezone;
mod update;
pub mod validation;
