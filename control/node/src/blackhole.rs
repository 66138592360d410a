//! Routes to nowhere for the node's own subnets: while the host port is not there, packets for pods of this node that the node's
//! other routes would send elsewhere, such as by the default route and back again, end here.

use crate::error::Error;
use crate::netlink::Kernel;
use ipnet::IpNet;

/// Has a blackhole route for each of these subnets, behind every other route to them; what is there already is not touched.
pub async fn put_blackhole_routes(subnets: &[IpNet]) -> Result<(), Error> {
    let kernel = Kernel::open()?;
    let present = kernel.blackholes().await?;
    for subnet in subnets.iter().map(IpNet::trunc).filter(|subnet| !present.contains(subnet)) {
        kernel.put_blackhole(subnet).await?;
    }
    Ok(())
}

/// Removes weft's blackhole routes but for these.
pub async fn drop_blackhole_routes(keep: &[IpNet]) -> Result<(), Error> {
    let kernel = Kernel::open()?;
    for subnet in kernel.blackholes().await? {
        if !keep.iter().any(|kept| kept.trunc() == subnet) {
            kernel.delete_blackhole(subnet).await?;
        }
    }
    Ok(())
}
