//! What a request asks for, read from its path, its query and its headers before anything is decided.

mod info;
mod options;
mod query;

pub use info::RequestInfo;
pub use options::{
    DeleteOptions, Preconditions, Propagation, delete_options_from_query, delete_options_from_value, options_from_query, validate_list_options,
    validate_write_options, watch_defaults,
};
pub use query::{Query, parse_bool, percent_decode};
