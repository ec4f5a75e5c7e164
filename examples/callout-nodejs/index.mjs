// A plain NATS client, nats.js as it comes from npm, on a Herald platform with `callout: true`.
// It knows nothing of Herald: an access key that was made with --password is its user name and
// password.
//
//   NATS_URL             where the servers are
//   HERALD_KEY_ID        what 'nscsetup access-key create' wrote,
//   HERALD_KEY_SECRET    as does this
//
// It asks what apples cost, places an order, and hears of it. docs/identities.md has the rest.
import process from "node:process";
import { connect } from "@nats-io/transport-node";

const { NATS_URL: servers, HERALD_KEY_ID: user, HERALD_KEY_SECRET: pass } = process.env;
if (!servers || !user || !pass) {
  console.error("error: NATS_URL, HERALD_KEY_ID or HERALD_KEY_SECRET is not set");
  process.exit(2);
}

try {
  const nc = await connect({
    servers: servers.split(","),
    user,
    pass,
    // The one inbox that this identity may read: answers come there.
    inboxPrefix: `_INBOX_${user.toLowerCase()}`,
    name: "callout-nodejs",
  });
  const price = await nc.request("orders.price", "apples", { timeout: 5000 });
  console.log(`orders.price: ${price.string()}`);

  const orders = nc.subscribe("orders.placed", { max: 1 });
  nc.publish("orders.placed", "3 apples");
  for await (const m of orders) console.log(`orders.placed: ${m.string()}`);
  await nc.drain();
} catch (err) {
  console.error(`error: ${err.message}`);
  process.exit(1);
}
