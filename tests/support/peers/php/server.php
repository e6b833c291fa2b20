<?php
// The interop services on PHP's ext-soap: `NOTES=file php -S 127.0.0.1:8123 server.php` serves
// /orders, /prices, /quotes and /staff. NOTES is where a one-way call leaves its trace.
ini_set('soap.wsdl_cache_enabled', '0');
ini_set('display_errors', 'stderr');
date_default_timezone_set('UTC');

class Address
{
    public $street;
    public $city;
}

class ForeignAddress extends Address
{
    public $country;
}

class Orders
{
    private string $token = '';

    public function __construct(private SoapServer $server)
    {
    }

    public function Session($session)  // the header: called before the operation
    {
        $this->token = $session->token;
    }

    public function register($request)
    {
        $order = $request->order;
        $lines = $order->line ?? [];
        if (array_filter($lines, fn($line) => $line->sku === 'none')) {
            throw new SoapFault('Client', 'out of stock', null, ['sku' => 'none', 'left' => 0],
                'OutOfStock');
        }
        if ($order->customer === 'blocked') {
            throw new SoapFault('Client', 'refused', null, ['until' => '2025-01-31'], 'Refused');
        }
        if ($order->customer === 'broken') {
            throw new SoapFault('Server', 'the warehouse is closed');
        }
        $trace = new SoapHeader('urn:example:orders', 'Trace',
            ['id' => "$this->token/$order->number"]);
        $this->server->addSoapHeader($trace);
        $cents = array_sum(array_map(fn($l) => $l->quantity * (int) round($l->price * 100), $lines));
        return ['receipt' => [
            'total' => sprintf('%d.%02d', intdiv($cents, 100), $cents % 100),
            'due' => (new DateTimeImmutable($order->placed))->modify('+1 day')
                ->format('Y-m-d\TH:i:s.vP'),
            'size' => strlen($order->attachment ?? ''),
            'count' => array_sum(array_map(fn($line) => $line->quantity, $lines)),
            'urgent' => ($order->priority ?? '') === 'high',
            'destination' => get_class($order->address),
            'order' => $order,
        ]];
    }

    public function find($request)
    {
        $lines = [];
        for ($n = 1; $n <= $request->limit; $n++) {
            $price = sprintf('%.2f', $n * 0.5);
            $lines[] = ['sku' => "S-$n", 'quantity' => $n, 'price' => $price];
        }
        return ['line' => $lines];
    }

    public function cancel($request)
    {
        file_put_contents(getenv('NOTES'), "cancelled $request->number\n", FILE_APPEND);
    }
}

class Prices
{
    public function lookup($sku)
    {
        if ($sku !== 'A-1') {
            throw new SoapFault('Client', 'no such article', null, $sku, 'unknown');
        }
        return '12.50';
    }

    public function convert($amount)
    {
        if ($amount->currency !== 'EUR') {
            return [];
        }
        $dollars = ['_' => sprintf('%.2f', $amount->_ * 1.08), 'currency' => 'USD'];
        return ['amount' => [$amount, $dollars]];
    }
}

class Quotes
{
    public function quote($sku, $quantity, $options)
    {
        if ($quantity > 1000) {
            throw new SoapFault('Client', 'too many', null, 1000, 'TooMany');
        }
        $delivery = (new DateTimeImmutable('2024-02-27'))->modify("+$quantity days");
        return ['price' => sprintf('%.2f', $quantity * 12.5),
            'delivery' => $delivery->format('Y-m-d'), 'options' => $options];
    }
}

class Staff
{
    public function report($title, $people)
    {
        $oldest = $people[0];
        foreach ($people as $person) {
            $oldest = strtotime($person->since) < strtotime($oldest->since) ? $person : $oldest;
        }
        return [
            'names' => array_map(fn($person) => $person->name, $people),
            'payroll' => sprintf('%.2f', array_sum(array_map(fn($p) => $p->pay, $people))),
            'bytes' => array_sum(array_map(fn($p) => strlen($p->photo ?? ''), $people)),
            'oldest' => $oldest,
            'people' => $people,
        ];
    }
}

$name = trim($_SERVER['REQUEST_URI'], '/');
if ($_SERVER['REQUEST_METHOD'] === 'GET') {
    echo 'up';
    return;
}
$version = str_contains($_SERVER['CONTENT_TYPE'] ?? '', 'soap+xml') ? SOAP_1_2 : SOAP_1_1;
$server = new SoapServer(__DIR__ . "/../$name.wsdl", [
    'soap_version' => $version,
    'features' => SOAP_SINGLE_ELEMENT_ARRAYS,
    'classmap' => ['ForeignAddress' => 'ForeignAddress', 'Address' => 'Address'],
]);
$class = ucfirst($name);
$server->setObject(new $class($server));
$server->handle();
