import jakarta.xml.ws.Holder;
import jakarta.xml.ws.WebServiceFeature;
import jakarta.xml.ws.soap.AddressingFeature;
import jakarta.xml.ws.soap.SOAPFaultException;
import java.math.BigDecimal;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import javax.xml.datatype.DatatypeFactory;
import javax.xml.datatype.XMLGregorianCalendar;
import javax.xml.namespace.QName;
import peers.orders.*;
import peers.prices.*;
import peers.quotes.*;

/**
 * Asks a hosted service for everything it has, with JAX-WS RI, and prints its account as JSON:
 * {@code java Client orders|prices|quotes WSDL-URL 1.1|1.2 [addressing]}. With addressing it sends
 * the headers of WS-Addressing, and wants them in answers.
 */
public class Client {
    static final byte[] BYTES = {0, 1, (byte) 0xfe, (byte) 0xff};

    public static void main(String[] arguments) throws Exception {
        URL wsdl = new URL(arguments[1]);
        String version = arguments[2].replace(".", "");
        WebServiceFeature[] features = arguments.length > 3
            ? new WebServiceFeature[] {new AddressingFeature(true, true)}
            : new WebServiceFeature[0];
        Map<String, Object> account = switch (arguments[0]) {
            case "orders" -> orders(new OrderService(wsdl).getPort(
                new QName("urn:example:orders", "Orders" + version), Orders.class, features));
            case "prices" -> prices(new PriceService(wsdl).getPort(
                new QName("urn:example:prices", "Prices" + version), Prices.class, features));
            default -> quotes(new QuoteService(wsdl).getPort(
                new QName("urn:example:quotes", "Quotes" + version), Quotes.class, features));
        };
        System.out.write(json(account).getBytes(StandardCharsets.UTF_8));
        System.out.flush();
    }

    static Order order(String customer, String sku) throws Exception {
        Line first = new Line();
        first.setSku(sku);
        first.setQuantity(3);
        first.setPrice(new BigDecimal("0.10"));
        first.setUnit("pcs");
        Line second = new Line();
        second.setSku("ü");
        second.setQuantity(2);
        second.setPrice(new BigDecimal("1234567890.01"));
        ForeignAddress address = new ForeignAddress();
        address.setStreet("Rue 1");
        address.setCity("Lyon");
        address.setCountry("FR");
        Order order = new Order();
        order.setNumber(7);
        order.setPriority(Priority.HIGH);
        order.setCustomer(customer);
        order.setNote(null);
        order.setPlaced(DatatypeFactory.newInstance()
            .newXMLGregorianCalendar("2024-02-29T23:30:00.125+01:00"));
        order.setCash(new BigDecimal("0.10"));
        order.getLine().addAll(List.of(first, second));
        order.getTag().add("only one");
        order.setAttachment(BYTES);
        order.setAddress(address);
        return order;
    }

    static Map<String, Object> orders(Orders port) throws Exception {
        Session session = new Session();
        session.setToken("t-1");
        Holder<Trace> trace = new Holder<>();
        Receipt receipt = port.register(order("Grün & Söhne <GmbH>", "A-1"), session, trace);
        OutOfStock none = fault(OutOfStock_Exception.class, () ->
            port.register(order("x", "none"), session, new Holder<>())).getFaultInfo();
        Refused refused = fault(Refused_Exception.class, () ->
            port.register(order("blocked", "A-1"), session, new Holder<>())).getFaultInfo();
        SOAPFaultException failure = fault(SOAPFaultException.class, () ->
            port.register(order("broken", "A-1"), session, new Holder<>()));
        port.cancel(4711);
        Order order = receipt.getOrder();
        ForeignAddress address = (ForeignAddress) order.getAddress();
        Map<String, Object> account = new LinkedHashMap<>();
        account.put("total", receipt.getTotal().toPlainString());
        account.put("due", utc(receipt.getDue()));
        account.put("size", receipt.getSize());
        account.put("count", receipt.getCount());
        account.put("urgent", receipt.isUrgent());
        account.put("destination", receipt.getDestination());
        account.put("number", order.getNumber());
        account.put("priority", order.getPriority().value());
        account.put("customer", order.getCustomer());
        account.put("note", order.getNote());
        account.put("coupon", order.getCoupon());
        account.put("placed", utc(order.getPlaced()));
        account.put("card", order.getCard());
        account.put("cash", order.getCash().toPlainString());
        account.put("lines", order.getLine().stream().map(Client::line).toList());
        account.put("tags", order.getTag());
        account.put("attachment", HexFormat.of().formatHex(order.getAttachment()));
        account.put("address", String.join(" ", address.getClass().getSimpleName(),
            address.getStreet(), address.getCity(), address.getCountry()));
        account.put("trace", trace.value.getId());
        account.put("OutOfStock", none.getSku() + " " + none.getLeft());
        account.put("Refused", refused.getUntil().toString());
        account.put("failure", failure.getFault().getFaultString());
        account.put("found", List.of(lines(port.find(0, null)), lines(port.find(1, null)),
            lines(port.find(3, Priority.LOW))));
        return account;
    }

    static Map<String, Object> prices(Prices port) throws Exception {
        return Map.of(
            "price", port.lookup("A-1").toPlainString(),
            "amounts", port.convert(amount("10.00", "EUR")).getAmount().stream()
                .map(a -> a.getValue().toPlainString() + " " + a.getCurrency()).toList(),
            "none", port.convert(amount("1", "XXX")).getAmount(),
            "unknown", fault(Unknown.class, () -> port.lookup("nothing")).getFaultInfo());
    }

    static Amount amount(String value, String currency) {
        Amount amount = new Amount();
        amount.setValue(new BigDecimal(value));
        amount.setCurrency(currency);
        return amount;
    }

    static Map<String, Object> quotes(Quotes port) throws Exception {
        Options options = new Options();
        options.setGift(true);
        options.getColour().add("red");
        Holder<Options> both = new Holder<>(options);
        Holder<BigDecimal> price = new Holder<>();
        Holder<XMLGregorianCalendar> delivery = new Holder<>();
        port.quote("A-1", 3, both, price, delivery);
        TooMany tooMany = fault(TooMany.class, () -> {
            port.quote("A-1", 1001, new Holder<>(options), new Holder<>(), new Holder<>());
            return null;
        });
        return Map.of(
            "price", price.value.toPlainString(),
            "delivery", delivery.value.toString(),
            "gift", both.value.isGift(),
            "colours", both.value.getColour(),
            "TooMany", Integer.toString(tooMany.getFaultInfo()));
    }

    static <E extends Exception> E fault(Class<E> type, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (Exception e) {
            if (type.isInstance(e)) {
                return type.cast(e);
            }
            throw e;
        }
        throw new IllegalStateException("no fault came");
    }

    static String utc(XMLGregorianCalendar time) {
        return time.toGregorianCalendar().toInstant().toString();
    }

    static String line(Line line) {
        return String.join(" ", line.getSku(), Integer.toString(line.getQuantity()),
            line.getPrice().toPlainString(), line.getUnit() == null ? "-" : line.getUnit());
    }

    static String lines(List<Line> lines) {
        return lines.stream().map(Client::line).collect(Collectors.joining("|"));
    }

    static String json(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream()
                .map(entry -> json(entry.getKey()) + ":" + json(entry.getValue()))
                .collect(Collectors.joining(",", "{", "}"));
        }
        if (value instanceof List<?> list) {
            return list.stream().map(Client::json).collect(Collectors.joining(",", "[", "]"));
        }
        if (value instanceof String text) {
            return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
        }
        return String.valueOf(value);
    }
}
