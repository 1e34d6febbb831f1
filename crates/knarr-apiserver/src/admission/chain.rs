//! How plugins are run one after the other, and measured (upstream: `admission.chainAdmissionHandler`, `WithStepMetrics`,
//! `WithControllerMetrics`).

use std::time::Instant;

use knarr_core::Result;

use super::{Passes, Review};
use crate::{metrics::Step, server::Inner};

/// Lets the plugins change the object under review. When one wants it, all are asked a second time.
///
/// # Errors
/// What a plugin says.
pub async fn mutate(server: &Inner, review: &mut Review<'_>) -> Result<()> {
    let started = Instant::now();
    let result = mutate_rounds(server, review).await;
    server.metrics.admission.step(Step::Admit, review.operation, result.is_err(), started);
    result
}

async fn mutate_rounds(server: &Inner, review: &mut Review<'_>) -> Result<()> {
    let plugins = server.plugins.load_full();
    let operation = review.operation;
    loop {
        for plugin in plugins.iter().filter(|p| p.passes() != Passes::Validating && p.handles(operation, review.attributes)) {
            let started = Instant::now();
            let result = plugin.mutate(review).await;
            server.metrics.admission.controller(plugin.name(), Step::Admit, operation, result.is_err(), started);
            result?;
        }
        if review.reinvocation.again || !review.reinvocation.wanted {
            return Ok(());
        }
        review.reinvocation.again = true;
    }
}

/// Lets the plugins refuse the object under review.
///
/// # Errors
/// What a plugin says.
pub async fn validate(server: &Inner, review: &Review<'_>) -> Result<()> {
    let started = Instant::now();
    let result = validate_all(server, review).await;
    server.metrics.admission.step(Step::Validate, review.operation, result.is_err(), started);
    result
}

async fn validate_all(server: &Inner, review: &Review<'_>) -> Result<()> {
    let plugins = server.plugins.load_full();
    for plugin in plugins.iter().filter(|p| p.passes() != Passes::Mutating && p.handles(review.operation, review.attributes)) {
        let started = Instant::now();
        let result = plugin.validate(review).await;
        server.metrics.admission.controller(plugin.name(), Step::Validate, review.operation, result.is_err(), started);
        result?;
    }
    Ok(())
}
