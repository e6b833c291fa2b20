// SOAP as REST with node's http server and the client of `soap`, over connections that are kept alive.
const http = require("node:http");
const { createRequire } = require("node:module");

// The packages lie where fetch.py put them.
const load = createRequire(`${process.env.MODULES}/`);
const soap = load("soap");
const axios = load("axios");

const PATH = "/orders/placeOrder";
const backend = axios.create({ httpAgent: new http.Agent({ keepAlive: true, maxSockets: 200 }) });

// `soap` has attributes under a key of their own; the REST API has them as "@name".
const toSoap = (order) => {
  const { "@number": number, ...customer } = order.customer;
  return { ...order, customer: { attributes: { number }, ...customer } };
};
const toRest = ({ attributes, ...order }) => {
  const { attributes: own, ...customer } = order.customer;
  return { ...order, customer: { "@number": Number(own.number), ...customer }, line: [order.line].flat() };
};

const read = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks));
};

soap.createClientAsync(process.env.WSDL, { request: backend }).then((client) => {
  client.setEndpoint(`${process.env.BACKEND}/soap`);
  http
    .createServer(async (request, response) => {
      try {
        if (request.method !== "POST" || request.url !== PATH) return response.writeHead(404).end();
        const [reply] = await client.placeOrderAsync(toSoap(await read(request)));
        const body = JSON.stringify(toRest(reply));
        response.writeHead(200, {
          "Content-Type": "application/json",
          "Content-Length": Buffer.byteLength(body),
        });
        response.end(body);
      } catch (error) {
        console.error(error.message);
        response.writeHead(502).end();
      }
    })
    .listen(Number(process.env.PORT), "127.0.0.1");
});
