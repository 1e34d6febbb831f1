//! Components are clients of the API: this crate is how they come in. `Client` over any `Transport`, shared informers,
//! work queues, the controller runner, event recorder, leader election.
