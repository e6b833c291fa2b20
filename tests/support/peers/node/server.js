// The interop services on node's `soap`: `NOTES=file node server.js PORT` serves /orders/11,
// /prices/11 and /quotes/11, and the same with 12 for SOAP 1.2. NOTES is where a one-way call leaves
// its trace. Below /secured, prices want a UsernameToken of "ada" with a digest.
'use strict';
const fs = require('fs');
const http = require('http');
const path = require('path');
const soap = require('soap');

const list = (value) => (value === undefined || value === null ? [] : [].concat(value));

// This stack writes details and rpc answers in namespaces of its own choice, so these are given to it
// as they shall stand; and it uses xsi without a declaration, so that is an attribute of the order.
class Refusal {
  constructor(party, reason, $xml) {
    Object.assign(this, { party, reason, detail: $xml && { $xml } });
  }

  in(version) {
    const { party, reason, detail } = this;
    if (version === '11') {
      return { Fault: { faultcode: `soap:${party}`, faultstring: reason, detail, statusCode: 500 } };
    }
    return { Fault: {
      Code: { Value: party === 'Client' ? 'soap:Sender' : 'soap:Receiver' },
      Reason: { Text: { attributes: { 'xml:lang': 'en' }, $value: reason } },
      Detail: detail,
      statusCode: party === 'Client' ? 400 : 500,
    } };
  }
}

function register({ order }) {
  const ns = 'urn:example:orders';
  const lines = list(order.line);
  if (lines.some((line) => line.sku === 'none')) {
    throw new Refusal('Client', 'out of stock',
      `<t:OutOfStock xmlns:t="${ns}"><t:sku>none</t:sku><t:left>0</t:left></t:OutOfStock>`);
  }
  if (order.customer === 'blocked') {
    throw new Refusal('Client', 'refused',
      `<t:Refused xmlns:t="${ns}"><t:until>2025-01-31</t:until></t:Refused>`);
  }
  if (order.customer === 'broken') throw new Refusal('Server', 'the warehouse is closed');
  const type = order.address.attributes?.['xsi:type']?.split(':').pop();
  if (type) {
    const { attributes, ...fields } = order.address;
    order.address = { attributes: { xsi_type: { type, xmlns: ns, prefix: 'tns' } }, ...fields };
  }
  const cents = lines.reduce((sum, { quantity, price }) => sum + quantity * Math.round(price * 100), 0);
  return { receipt: {
    total: (cents / 100).toFixed(2),
    due: new Date(order.placed.getTime() + 24 * 3600 * 1000).toISOString(),
    size: Buffer.from(order.attachment ?? '', 'base64').length,
    count: lines.reduce((sum, { quantity }) => sum + quantity, 0),
    urgent: order.attributes.priority === 'high',
    destination: type ?? 'Address',
    order: {
      ...order,
      attributes: { ...order.attributes, 'xmlns:xsi': 'http://www.w3.org/2001/XMLSchema-instance' },
      placed: order.placed.toISOString(),
    },
  } };
}

function find({ limit }) {
  const numbers = Array.from({ length: limit }, (_, index) => index + 1);
  return { line: numbers.map((n) => (
    { sku: `S-${n}`, quantity: n, price: (n * 0.5).toFixed(2) })) };
}

function lookup(sku) {
  if (sku !== 'A-1') {
    throw new Refusal('Client', 'no such article',
      `<unknown xmlns="urn:example:prices">${sku}</unknown>`);
  }
  return '12.50';
}

function convert({ $value, attributes: { currency } }) {
  if (currency !== 'EUR') return {};
  const amount = (value, of) => ({ attributes: { currency: of }, $value: value.toFixed(2) });
  return { amount: [amount($value, 'EUR'), amount($value * 1.08, 'USD')] };
}

function quote({ quantity: text, options }) {
  const quantity = Number(text); // no types in rpc
  if (quantity > 1000) {
    throw new Refusal('Client', 'too many', '<TooMany xmlns="urn:example:quotes">1000</TooMany>');
  }
  const delivery = new Date(Date.UTC(2024, 1, 27 + quantity)).toISOString().slice(0, 10);
  const { gift, colour } = options;
  return { $xml: `<price>${(quantity * 12.5).toFixed(2)}</price><delivery>${delivery}</delivery>` +
    `<options><gift>${gift}</gift>` +
    `${list(colour).map((one) => `<colour>${one}</colour>`).join('')}</options>` };
}

function cancel({ number }) {
  fs.appendFileSync(process.env.NOTES, `cancelled ${number}\n`);
}

const server = http.createServer((request, response) => {
  response.end('up');
});

function serve(name, service, port, operations, at = '') {
  // The namespace of rpc calls is ignored by this stack, which takes the WSDL's.
  const xml = fs.readFileSync(path.join(__dirname, '..', `${name}.wsdl`), 'utf8')
    .replaceAll('urn:example:quotes:call', 'urn:example:quotes');
  return ['11', '12'].map((version) => {
    const methods = Object.fromEntries(Object.entries(operations).map(([operation, answer]) =>
      [operation, async (request) => {
        try {
          return answer(request);
        } catch (error) {
          throw error instanceof Refusal ? error.in(version) : error;
        }
      }]));
    return soap.listen(server, {
      path: `${at}/${name}/${version}`,
      services: { [service]: { [`${port}11`]: methods, [`${port}12`]: methods } },
      xml,
      handleNilAsNull: true,
      forceSoap12Headers: version === '12',
    });
  });
}

for (const orders of serve('orders', 'OrderService', 'Orders', { register, find, cancel })) {
  orders.addSoapHeader((method, request, headers) => (method !== 'register' ? '' :
    `<t:Trace xmlns:t="urn:example:orders"><t:id>${headers.Session.token}/` +
    `${request.order.attributes.number}</t:id></t:Trace>`));
}
serve('prices', 'PriceService', 'Prices', { lookup, convert });
for (const prices of serve('prices', 'PriceService', 'Prices', { lookup, convert }, '/secured')) {
  prices.authenticate = (security) => {
    const { Username, Password, Nonce, Created } = security?.UsernameToken ?? {};
    const digest = Nonce && soap.passwordDigest(Nonce.$value ?? Nonce, Created, 's3cret & <more>');
    return Username === 'ada' && (Password.$value ?? Password) === digest;
  };
}
serve('quotes', 'QuoteService', 'Quotes', { quote });
server.listen(Number(process.argv[2]), '127.0.0.1');
