// Asks a hosted service for everything it has, with node's `soap`, and prints its account as JSON:
// node client.js orders|prices|quotes WSDL-URL 1.1|1.2 [PASSWORD]
// With a password it shows a UsernameToken of "ada" with a digest, and a Timestamp.
'use strict';
const soap = require('soap');

const [service, wsdl, version, password] = process.argv.slice(2);
const NS = 'urn:example:orders';

// What this stack does not do by itself: lists of one, trailing zeros, base64, telling which type an
// element was said to have, and any type at all in details, beside attributes and in rpc structs.
const list = (value) => (value === undefined || value === null ? [] : [].concat(value));
const money = (value) => Number(value).toFixed(2);
const hex = (base64) => Buffer.from(base64, 'base64').toString('hex');

async function fault(call) {
  try {
    await call();
  } catch (error) {
    const { Fault } = error.root.Envelope.Body;
    return { detail: Fault.detail ?? Fault.Detail, reason: Fault.faultstring ?? Fault.Reason.Text.$value };
  }
  throw new Error('no fault came');
}

function line({ sku, quantity, price, attributes }) {
  if (typeof quantity !== 'number') throw new TypeError(`quantity is a ${typeof quantity}`);
  return `${sku} ${quantity} ${money(price)} ${attributes?.unit ?? '-'}`;
}

async function orders(client) {
  client.addSoapHeader({ Session: { token: 't-1' } }, '', 'tns', NS);
  let headers;
  const register = async (changed = {}, sku = 'A-1') => {
    const [answer, , header] = await client.registerAsync({ order: {
      attributes: { number: 7, priority: 'high' },
      customer: 'Grün & Söhne <GmbH>',
      note: null,
      placed: '2024-02-29T23:30:00.125+01:00',
      cash: '0.10',
      line: [
        { attributes: { unit: 'pcs' }, sku, quantity: 3, price: '0.10' },
        { sku: 'ü', quantity: 2, price: '1234567890.01' },
      ],
      tag: ['only one'],
      attachment: Buffer.from([0, 1, 0xfe, 0xff]).toString('base64'),
      address: {
        attributes: { xsi_type: { type: 'ForeignAddress', xmlns: NS, prefix: 'tns' } },
        street: 'Rue 1', city: 'Lyon', country: 'FR',
      },
      ...changed,
    } });
    headers = header;
    return answer.receipt;
  };
  const find = async (limit) => list((await client.findAsync({ limit }))[0]?.line).map(line).join('|');
  const receipt = await register();
  const { order } = receipt;
  const none = (await fault(() => register({}, 'none'))).detail.OutOfStock;
  await client.cancelAsync({ number: 4711 });
  return {
    total: money(receipt.total),
    due: receipt.due.toISOString(),
    size: receipt.size,
    count: receipt.count,
    urgent: receipt.urgent,
    destination: receipt.destination,
    number: Number(order.attributes.number),
    priority: order.attributes.priority,
    customer: order.customer,
    note: order.note,
    coupon: order.coupon ?? null,
    placed: order.placed.toISOString(),
    card: order.card ?? null,
    cash: money(order.cash),
    lines: list(order.line).map(line),
    tags: list(order.tag),
    attachment: hex(order.attachment),
    address: [order.address.attributes['xsi:type'].split(':').pop(), order.address.street,
      order.address.city, order.address.country].join(' '),
    trace: headers.Trace.id,
    OutOfStock: `${none.sku} ${none.left}`,
    Refused: (await fault(() => register({ customer: 'blocked' }))).detail.Refused.until,
    failure: (await fault(() => register({ customer: 'broken' }))).reason,
    found: [await find(0), await find(1), await find(3)],
  };
}

async function prices(client) {
  const convert = async ($value, currency) => {
    const [answer] = await client.convertAsync({ $value, attributes: { currency } });
    return list(answer?.amount).map((one) => `${money(one.$value)} ${one.attributes.currency}`);
  };
  return {
    price: money((await client.lookupAsync('A-1'))[0]),
    amounts: await convert('10.00', 'EUR'),
    none: await convert('1', 'XXX'),
    unknown: (await fault(() => client.lookupAsync('nothing'))).detail.unknown,
  };
}

async function quotes(client) {
  const options = { gift: true, colour: ['red'] };
  const quote = (quantity) => client.quoteAsync({ sku: 'A-1', quantity, options });
  const [answer] = await quote(3);
  return {
    price: money(answer.price),
    delivery: answer.delivery.toISOString().slice(0, 10),
    gift: String(answer.options.gift) === 'true',
    colours: list(answer.options.colour),
    TooMany: String((await fault(() => quote(1001))).detail.TooMany),
  };
}

async function main() {
  const client = await soap.createClientAsync(wsdl, {
    forceSoap12Headers: version === '1.2',
    handleNilAsNull: true,
  });
  if (password) {
    client.setSecurity(new soap.WSSecurity('ada', password, {
      passwordType: 'PasswordDigest', hasTimeStamp: true, mustUnderstand: true,
    }));
  }
  process.stdout.write(JSON.stringify(await { orders, prices, quotes }[service](client)));
}

main().catch((error) => {
  process.stderr.write(`${error.stack.slice(0, 2000)}\n${error.body ?? ''}\n`);
  process.exitCode = 1;
});
