//! Where a request over the wire meets the audit log: how it is written down at its beginning, and at its end.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Request, Response, header};

use super::{
    body::Body,
    edge::{Passage, Peer},
    switched,
};
use crate::{
    audit::{Auditor, Beginning, Record},
    authn::User,
};

/// Addresses that the request came by: those that proxies name, which nobody should trust, then the peer's
/// (upstream: `utilnet.SourceIPs`).
fn source_ips(headers: &HeaderMap, peer: &Peer) -> Vec<IpAddr> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut ips: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    ips.extend(text("x-real-ip").parse::<IpAddr>().ok().filter(|ip| !ips.contains(ip)));
    let address = peer.address.map(|a| a.ip().to_canonical());
    ips.extend(address.filter(|ip| ips.last() != Some(ip)));
    ips
}

impl Passage {
    /// Where the request is written down, if it is.
    pub fn record(&self) -> Option<&Record> {
        self.record.get().map(AsRef::as_ref)
    }

    /// Holds the request against the policy. Without a user it could not be authenticated.
    pub fn begin_record<B>(&self, auditor: &Arc<Auditor>, user: Option<Arc<User>>, request: &Request<B>, peer: &Peer) {
        let headers = request.headers();
        let beginning = Beginning {
            id: self.audit_id.to_str().unwrap_or_default(),
            uri: request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            agent: headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default(),
            source_ips: source_ips(headers, peer),
            user,
            info: &self.info,
        };
        if let Some(record) = Record::begin(auditor, beginning) {
            self.record.get_or_init(|| record);
        }
    }

    /// Writes down what came of the request; of one that lasts, its end when that comes.
    pub async fn written_down(&self, response: Response<Body>) -> Response<Body> {
        let Some(record) = self.record.get() else { return response };
        let code = response.status().as_u16();
        if record.is_unauthenticated() {
            record.started(code).await;
        } else if self.info.is_long_running() {
            record.started(code).await;
            return switched::hold(response, Box::new(record.ending()));
        } else {
            record.complete(code).await;
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_is_the_peers() {
        let peer = Peer { address: Some("10.0.0.9:4711".parse().unwrap()), ..Peer::default() };
        let ips = |headers: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
            source_ips(&headers, &peer).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ips(&[]), ["10.0.0.9"]);
        assert_eq!(ips(&[("x-forwarded-for", "1.2.3.4, nonsense, 10.0.0.9"), ("x-real-ip", "1.2.3.4")]), ["1.2.3.4", "10.0.0.9"]);
        assert_eq!(ips(&[("x-real-ip", "5.6.7.8")]), ["5.6.7.8", "10.0.0.9"]);
    }
}
