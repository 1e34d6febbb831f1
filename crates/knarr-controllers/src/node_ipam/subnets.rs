//! A network cut into equal parts, some of them taken. Upstream: `nodeipam/ipam/cidrset`.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Most parts of one network (upstream limits IPv6 the same way).
const PARTS_MAX: u64 = 1 << 16;

/// Parts of `PREFIX` bits of one network.
pub struct Subnets {
    whole: IpNet,
    prefix: u8,
    taken: Vec<bool>,
    /// Where the search for a free part begins, so that a part that was given back rests for a while.
    next: usize,
}

impl Subnets {
    pub fn new(whole: IpNet, prefix: u8) -> Self {
        let prefix = prefix.clamp(whole.prefix_len(), whole.max_prefix_len());
        let count = 1_u64.checked_shl(u32::from(prefix - whole.prefix_len())).unwrap_or(PARTS_MAX).min(PARTS_MAX);
        Self { whole: whole.trunc(), prefix, taken: vec![false; usize::try_from(count).unwrap_or(0)], next: 0 }
    }

    /// A free part, which is then taken.
    pub fn take(&mut self) -> Option<IpNet> {
        let count = self.taken.len();
        let free = (0..count).map(|i| (self.next + i) % count).find(|i| !self.taken[*i])?;
        self.taken[free] = true;
        self.next = (free + 1) % count;
        self.part(free)
    }

    /// Takes every part that overlaps this network.
    pub fn occupy(&mut self, net: &IpNet) {
        self.mark(net, true);
    }

    /// Gives back every part that overlaps this network.
    pub fn release(&mut self, net: &IpNet) {
        self.mark(net, false);
    }

    fn mark(&mut self, net: &IpNet, taken: bool) {
        let (Some(first), Some(last)) = (self.index(net.network()), self.index(net.broadcast())) else {
            // Either it lies elsewhere, or it holds the whole network.
            if net.contains(&self.whole) {
                self.taken.fill(taken);
            }
            return;
        };
        let end = last.min(self.taken.len().saturating_sub(1));
        if first <= end {
            self.taken[first..=end].fill(taken);
        }
    }

    fn index(&self, address: std::net::IpAddr) -> Option<usize> {
        let bits = u32::from(self.whole.max_prefix_len() - self.prefix);
        let offset = match (self.whole, address) {
            (IpNet::V4(net), std::net::IpAddr::V4(a)) if net.contains(&a) => u128::from(u32::from(a) - u32::from(net.network())),
            (IpNet::V6(net), std::net::IpAddr::V6(a)) if net.contains(&a) => u128::from(a) - u128::from(net.network()),
            _ => return None,
        };
        usize::try_from(offset.checked_shr(bits).unwrap_or(0)).ok()
    }

    fn part(&self, index: usize) -> Option<IpNet> {
        let bits = u32::from(self.whole.max_prefix_len() - self.prefix);
        let offset = (index as u128).checked_shl(bits)?;
        match self.whole {
            IpNet::V4(net) => {
                let address = u32::from(net.network()).checked_add(u32::try_from(offset).ok()?)?;
                Ipv4Net::new(address.into(), self.prefix).ok().map(IpNet::V4)
            }
            IpNet::V6(net) => Ipv6Net::new((u128::from(net.network()) + offset).into(), self.prefix).ok().map(IpNet::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_in_turn_and_come_back() {
        let mut pool = Subnets::new("10.0.0.0/30".parse().unwrap(), 31);
        let take = |pool: &mut Subnets| pool.take().map(|n| n.to_string());
        assert_eq!((take(&mut pool), take(&mut pool), take(&mut pool)), (Some("10.0.0.0/31".into()), Some("10.0.0.2/31".into()), None));
        pool.release(&"10.0.0.0/31".parse().unwrap());
        assert_eq!(take(&mut pool), Some("10.0.0.0/31".into()));
    }

    #[test]
    fn what_overlaps_is_not_given() {
        let mut pool = Subnets::new("fd00::/62".parse().unwrap(), 64);
        pool.occupy(&"fd00:0:0:1::/112".parse().unwrap());
        pool.occupy(&"10.0.0.0/8".parse().unwrap());
        let all: Vec<String> = std::iter::from_fn(|| pool.take()).map(|n| n.to_string()).collect();
        assert_eq!(all, ["fd00::/64", "fd00:0:0:2::/64", "fd00:0:0:3::/64"]);
    }
}
