<?php
// Calls one operation with PHP's ext-soap and prints what came as JSON:
// php client.php WSDL-URL 1.1|1.2 OPERATION '[arguments]'
ini_set('soap.wsdl_cache_enabled', '0');
[, $wsdl, $version, $operation, $arguments] = $argv;
try {
    $client = new SoapClient($wsdl, [
        'soap_version' => $version === '1.2' ? SOAP_1_2 : SOAP_1_1,
        'features' => SOAP_SINGLE_ELEMENT_ARRAYS,
        'exceptions' => true,
    ]);
    $answer = $client->__soapCall($operation, json_decode($arguments, true));
    echo json_encode(['answer' => $answer]);
} catch (SoapFault $fault) {
    echo json_encode(['fault' => [
        'code' => $fault->faultcode, 'reason' => $fault->faultstring,
        'detail' => $fault->detail ?? null,
    ]]);
}
