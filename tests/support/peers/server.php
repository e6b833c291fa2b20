<?php
// A SOAP service on PHP's ext-soap: `WSDL=... php -S 127.0.0.1:8123 server.php`.
ini_set('soap.wsdl_cache_enabled', '0');
ini_set('display_errors', 'stderr');

class Service
{
    public function getPartner($request)
    {
        if ($request->id === 500) {
            throw new SoapFault('Server', 'the database is away');
        }
        if ($request->id === 400) {
            throw new SoapFault('Client', 'that id is reserved', 'urn:example:actor');
        }
        if ($request->id !== 1) {
            $detail = ['id' => $request->id, 'hint' => 'there is only 1'];
            throw new SoapFault('Client', "no partner {$request->id}", null,
                $detail, 'PartnerNotFound');
        }
        return ['partner' => [
            'id' => 1, 'name' => "Grün & Söhne <GmbH>", 'kind' => 'company',
            'since' => '2001-02-03', 'balance' => '1234567890.10', 'active' => true,
            'tag' => ['a', 'b'],
        ]];
    }

    public function createPartner($request)
    {
        return ['id' => strlen($request->partner->name)];
    }

    public function findPartners($request)
    {
        $found = [];
        for ($i = 1; $i <= ($request->limit ?? 2); $i++) {
            $found[] = ['id' => $i, 'name' => ($request->name ?? 'any') . $i, 'kind' => 'person',
                'active' => $request->active ?? false];
        }
        return ['partner' => $found];
    }

    public function dropPartner($request)
    {
        file_put_contents(getenv('DROPPED'), "{$request->id}\n", FILE_APPEND);
    }

    public function add($a, $b)
    {
        return $a + $b;
    }

    public function total($items)
    {
        return ['sku' => implode('+', array_map(fn($i) => $i->sku, $items)),
            'count' => array_sum(array_map(fn($i) => $i->count, $items))];
    }
}

if ($_SERVER['REQUEST_METHOD'] === 'GET' && $_SERVER['REQUEST_URI'] === '/up') {
    echo 'up';
    return;
}
$version = str_contains($_SERVER['CONTENT_TYPE'] ?? '', 'soap+xml') ? SOAP_1_2 : SOAP_1_1;
$server = new SoapServer(getenv('WSDL'), [
    'soap_version' => $version,
    'features' => SOAP_SINGLE_ELEMENT_ARRAYS,
]);
$server->setClass('Service');
$server->handle();
