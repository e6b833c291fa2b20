<?php
// Asks a hosted service for everything it has, with PHP's ext-soap, and prints its account as JSON:
// php client.php orders|prices|quotes|staff WSDL-URL 1.1|1.2
ini_set('soap.wsdl_cache_enabled', '0');
date_default_timezone_set('UTC');
set_error_handler(fn($no, $text) => throw new ErrorException($text));
[, $service, $wsdl, $version] = $argv;

$client = new SoapClient($wsdl, [
    'soap_version' => $version === '1.2' ? SOAP_1_2 : SOAP_1_1,
    'features' => SOAP_SINGLE_ELEMENT_ARRAYS,
    'classmap' => ['ForeignAddress' => 'ForeignAddress', 'Address' => 'Address'],
]);

class Address
{
    public $street;
    public $city;
}

class ForeignAddress extends Address
{
    public $country;
}

function fault(callable $call): SoapFault
{
    try {
        $call();
    } catch (SoapFault $fault) {
        return $fault;
    }
    throw new Exception('no fault came');
}

function utc(string $time, string $format = 'Y-m-d\TH:i:s.v\Z'): string
{
    return (new DateTimeImmutable($time))->setTimezone(new DateTimeZone('UTC'))->format($format);
}

function line(object $line): string
{
    assert(is_int($line->quantity));
    return "$line->sku $line->quantity $line->price " . ($line->unit ?? '-');
}

function orders(SoapClient $client): array
{
    $register = function (array $changed = [], string $sku = 'A-1') use ($client, &$headers) {
        $address = new ForeignAddress();
        [$address->street, $address->city, $address->country] = ['Rue 1', 'Lyon', 'FR'];
        $order = [
            'number' => 7, 'priority' => 'high', 'customer' => 'Grün & Söhne <GmbH>', 'note' => null,
            'placed' => '2024-02-29T23:30:00.125+01:00', 'cash' => '0.10',
            'line' => [
                ['sku' => $sku, 'quantity' => 3, 'price' => '0.10', 'unit' => 'pcs'],
                ['sku' => 'ü', 'quantity' => 2, 'price' => '1234567890.01'],
            ],
            'tag' => ['only one'], 'attachment' => "\x00\x01\xfe\xff", 'address' => $address,
        ];
        $session = new SoapHeader('urn:example:orders', 'Session', ['token' => 't-1']);
        return $client->__soapCall('register', [['order' => $changed + $order]], null, [$session],
            $headers);
    };
    $find = fn($limit) => implode('|', array_map('line', $client->find(['limit' => $limit])->line
        ?? []));
    $receipt = $register()->receipt;
    $trace = $headers['Trace']->id;
    $order = $receipt->order;
    $none = fault(fn() => $register(sku: 'none'))->detail->OutOfStock;
    $client->cancel(['number' => 4711]);
    return [
        'total' => $receipt->total,
        'due' => utc($receipt->due),
        'size' => $receipt->size,
        'count' => $receipt->count,
        'urgent' => $receipt->urgent,
        'destination' => $receipt->destination,
        'number' => $order->number,
        'priority' => $order->priority,
        'customer' => $order->customer,
        'note' => $order->note,
        'coupon' => $order->coupon ?? null,
        'placed' => utc($order->placed),
        'card' => $order->card ?? null,
        'cash' => $order->cash,
        'lines' => array_map('line', $order->line),
        'tags' => $order->tag,
        'attachment' => bin2hex($order->attachment),
        'address' => implode(' ', [get_class($order->address), $order->address->street,
            $order->address->city, $order->address->country]),
        'trace' => $trace,
        'OutOfStock' => "$none->sku $none->left",
        'Refused' => fault(fn() => $register(['customer' => 'blocked']))->detail->Refused->until,
        'failure' => fault(fn() => $register(['customer' => 'broken']))->faultstring,
        'found' => [$find(0), $find(1), $find(3)],
    ];
}

function prices(SoapClient $client): array
{
    $convert = fn($value, $currency) => $client->convert(['_' => $value, 'currency' => $currency]);
    return [
        'price' => $client->lookup('A-1'),
        'amounts' => array_map(fn($a) => "$a->_ $a->currency", $convert('10.00', 'EUR')->amount),
        'none' => $convert('1', 'XXX')->amount ?? [],
        'unknown' => fault(fn() => $client->lookup('nothing'))->detail->unknown,
    ];
}

function quotes(SoapClient $client): array
{
    $options = ['gift' => true, 'colour' => ['red']];
    $answer = $client->quote('A-1', 3, $options);
    return [
        'price' => $answer['price'],
        'delivery' => $answer['delivery'],
        'gift' => $answer['options']->gift,
        'colours' => $answer['options']->colour,
        'TooMany' => fault(fn() => $client->quote('A-1', 1001, $options))->detail->TooMany,
    ];
}

function staff(SoapClient $client): array
{
    // One object in three places: PHP writes it once and refers to it.
    $boss = (object) ['name' => 'Chief', 'pay' => '99.99', 'since' => '1999-12-31T23:59:59Z',
        'photo' => "\x00\x01\xfe\xff", 'manager' => null];
    $person = fn($name, $pay) => ['name' => $name, 'pay' => $pay, 'since' => '2001-02-03T04:05:06Z',
        'photo' => null, 'manager' => $boss];
    $report = $client->report('all', [$person('Bö', '10.50'), $person('Al', '0.01'), $boss]);
    $oldest = $report->oldest;
    return [
        'names' => $report->names,
        'payroll' => $report->payroll,
        'bytes' => $report->bytes,
        'oldest' => implode(' ', [$oldest->name, $oldest->pay,
            utc($oldest->since, 'Y-m-d\TH:i:s\Z'), bin2hex($oldest->photo)]),
        'managers' => array_map(fn($p) => $p->manager->name ?? null, $report->people),
        'photos' => array_map(fn($p) => $p->photo === null ? null : bin2hex($p->photo),
            $report->people),
    ];
}

echo json_encode($service($client), JSON_THROW_ON_ERROR);
