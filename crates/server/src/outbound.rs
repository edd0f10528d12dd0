//! Which addresses a node connects to because it was told to: whatever is on the public internet, and what its operator
//! allows beside it. Without these rules others would choose what only the node can reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses at which clouds tell a machine its secrets. They are allowed only by name, not within a larger network.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // Azure's is a public address by its number.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Of IPv4, with what they are for. The narrower ones come first.
const V4: [([u8; 4], u32, &str); 16] = [
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "private"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "reserved"),
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "reserved"),
    ([198, 51, 100, 0], 24, "reserved"),
    ([203, 0, 113, 0], 24, "reserved"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// Of IPv6. What is in none of these and not in 2000::/3 is nobody's yet, and refused too.
const V6: [([u16; 8], u32, &str); 13] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "translated"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "translated"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "private"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    // Teredo, ORCHID and their like.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "translated"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "reserved"),
    // 6to4: an IPv4 address is inside, and may be any.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "translated"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "reserved"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "reserved"),
];

/// A network, as `10.1.0.0/16`; an address alone is itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// Why a text names no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("must be a network, as 10.1.0.0/16 or fd00::/8")]
    Malformed,
    #[error("has bits beyond its length: say the first address of the network")]
    HostBits,
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Malformed)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => whole,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= whole).ok_or(NetworkError::Malformed)?,
        };
        // What is mapped is known by its IPv4 address, and a network of mapped ones would never match.
        if address.to_canonical() != address {
            return Err(NetworkError::Malformed);
        }
        let network = Self { address, bits };
        if masked(address, bits) == number(address) { Ok(network) } else { Err(NetworkError::HostBits) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == number(self.address)
    }

    fn is_single(self) -> bool {
        self.bits == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// An address in the upper bits, so that networks of both sorts are compared alike.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn masked(address: IpAddr, bits: u32) -> u128 {
    number(address) & u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

/// Why an address may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) &'static str);

/// The address as it is to be connected to, if it may be: one that is mapped is what it is mapped to.
pub(crate) fn admit(address: IpAddr, allowed: &[Network]) -> Result<IpAddr, Refused> {
    let address = address.to_canonical();
    let Err(refused) = judge(address) else { return Ok(address) };
    let is_metadata = METADATA.contains(&address);
    let allows = |network: &Network| network.contains(address) && (!is_metadata || network.is_single());
    if allowed.iter().any(allows) { Ok(address) } else { Err(refused) }
}

fn judge(address: IpAddr) -> Result<(), Refused> {
    if METADATA.contains(&address) {
        return Err(Refused("metadata"));
    }
    let sort = match address {
        IpAddr::V4(_) => V4.iter().find_map(|(octets, bits, sort)| {
            let network = Network { address: Ipv4Addr::from(*octets).into(), bits: *bits };
            network.contains(address).then_some(*sort)
        }),
        IpAddr::V6(v6) => {
            let named = V6.iter().find_map(|(segments, bits, sort)| {
                let network = Network { address: Ipv6Addr::from(*segments).into(), bits: *bits };
                network.contains(address).then_some(*sort)
            });
            let is_global = v6.segments()[0] & 0xe000 == 0x2000;
            named.or((!is_global).then_some("reserved"))
        }
    };
    sort.map_or(Ok(()), |sort| Err(Refused(sort)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(address: &str) -> Option<&'static str> {
        admit(address.parse().unwrap(), &[]).err().map(|refused| refused.0)
    }

    #[test]
    fn only_the_public_internet_is_checked() {
        for (address, expected) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "private"),
            ("100.127.255.255", "private"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.1.1", "link-local"),
            ("169.254.169.254", "metadata"),
            ("168.63.129.16", "metadata"),
            ("100.100.100.200", "metadata"),
            ("192.0.0.192", "metadata"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.1", "reserved"),
            ("192.0.2.1", "reserved"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "reserved"),
            ("198.51.100.7", "reserved"),
            ("203.0.113.7", "reserved"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "reserved"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.1.2.3", "private"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::ffff:0:127.0.0.1", "reserved"),
            ("64:ff9b::7f00:1", "translated"),
            ("64:ff9b::808:808", "translated"),
            ("64:ff9b:1::a00:1", "translated"),
            ("100::1", "reserved"),
            ("2001::1", "translated"),
            ("2001:db8::1", "reserved"),
            ("2002:7f00:1::", "translated"),
            ("3fff::1", "reserved"),
            ("4000::1", "reserved"),
            ("fc00::1", "private"),
            ("fd12:3456::1", "private"),
            ("fd00:ec2::254", "metadata"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "private"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(sort(address), Some(expected), "{address}");
        }
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.167.1.1"]
        {
            assert_eq!(sort(address), None, "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "::ffff:8.8.8.8"] {
            assert_eq!(sort(address), None, "{address}");
        }
    }

    #[test]
    fn what_is_mapped_is_connected_to_as_what_it_is_mapped_to() {
        let mapped = "::ffff:8.8.4.4".parse().unwrap();
        assert_eq!(admit(mapped, &[]), Ok("8.8.4.4".parse().unwrap()));
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        assert_eq!(admit("::ffff:127.0.0.2".parse().unwrap(), &allowed), Ok("127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn an_operator_allows_networks_and_metadata_by_name_only() {
        let admits = |allowed: &[&str], address: &str| {
            let allowed: Vec<Network> = allowed.iter().map(|text| text.parse().unwrap()).collect();
            admit(address.parse().unwrap(), &allowed).is_ok()
        };
        assert!(admits(&["10.1.0.0/16"], "10.1.255.1"));
        assert!(!admits(&["10.1.0.0/16"], "10.2.0.1"));
        assert!(admits(&["fd00::/8", "127.0.0.1"], "127.0.0.1"));
        assert!(!admits(&["127.0.0.1"], "127.0.0.2"));
        assert!(!admits(&["0.0.0.0/0"], "::1"), "another family");
        assert!(admits(&["0.0.0.0/0"], "192.168.0.1"));
        assert!(!admits(&["0.0.0.0/0"], "169.254.169.254"));
        assert!(!admits(&["fd00::/8"], "fd00:ec2::254"));
        assert!(admits(&["169.254.169.254/32"], "169.254.169.254"));
    }

    #[test]
    fn a_network_is_spelled_in_one_way() {
        for good in ["127.0.0.0/8", "10.0.0.7", "::1", "fd00::/8", "0.0.0.0/0", "::/0"] {
            assert!(good.parse::<Network>().is_ok(), "{good}");
        }
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0.0/x", "10.0.0.0/-1", "::/129", "::ffff:10.0.0.0/104"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError::Malformed), "{bad}");
        }
        assert_eq!("10.0.0.1/8".parse::<Network>(), Err(NetworkError::HostBits));
    }
}
