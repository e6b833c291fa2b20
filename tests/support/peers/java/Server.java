import com.sun.net.httpserver.HttpServer;
import jakarta.jws.WebService;
import jakarta.xml.soap.SOAPConstants;
import jakarta.xml.soap.SOAPException;
import jakarta.xml.soap.SOAPFactory;
import jakarta.xml.ws.BindingType;
import jakarta.xml.ws.Endpoint;
import jakarta.xml.ws.Holder;
import jakarta.xml.ws.soap.Addressing;
import jakarta.xml.ws.soap.SOAPBinding;
import jakarta.xml.ws.soap.SOAPFaultException;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import javax.xml.datatype.DatatypeConfigurationException;
import javax.xml.datatype.DatatypeFactory;
import javax.xml.datatype.XMLGregorianCalendar;
import javax.xml.namespace.QName;
import peers.orders.*;
import peers.prices.*;
import peers.quotes.*;

/**
 * The interop services on JAX-WS RI: {@code NOTES=file java Server PORT} serves /orders/11,
 * /prices/11 and /quotes/11, and the same with 12 for SOAP 1.2. NOTES is where a one-way call leaves
 * its trace. Below /addressed, orders want the headers of WS-Addressing.
 */
public class Server {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 50);
        server.setExecutor(Executors.newCachedThreadPool());
        publish(server, "/orders/11", new Orders11());
        publish(server, "/orders/12", new Orders12());
        publish(server, "/prices/11", new Prices11());
        publish(server, "/prices/12", new Prices12());
        publish(server, "/quotes/11", new Quotes11());
        publish(server, "/quotes/12", new Quotes12());
        publish(server, "/addressed/orders/11", new AddressedOrders11());
        publish(server, "/addressed/orders/12", new AddressedOrders12());
        server.createContext("/up", exchange -> {
            exchange.sendResponseHeaders(204, -1);
            exchange.close();
        });
        server.start();
    }

    static void publish(HttpServer server, String path, Object service) {
        Endpoint.create(service).publish(server.createContext(path));
    }

    @WebService(endpointInterface = "peers.orders.Orders", targetNamespace = "urn:example:orders",
        serviceName = "OrderService", portName = "Orders11", wsdlLocation = "orders.wsdl")
    public static class Orders11 extends OrdersService {
    }

    @BindingType(SOAPBinding.SOAP12HTTP_BINDING)
    @WebService(endpointInterface = "peers.orders.Orders", targetNamespace = "urn:example:orders",
        serviceName = "OrderService", portName = "Orders12", wsdlLocation = "orders.wsdl")
    public static class Orders12 extends OrdersService {
    }

    @Addressing(enabled = true, required = true)
    @WebService(endpointInterface = "peers.orders.Orders", targetNamespace = "urn:example:orders",
        serviceName = "OrderService", portName = "Orders11", wsdlLocation = "orders.wsdl")
    public static class AddressedOrders11 extends OrdersService {
    }

    @Addressing(enabled = true, required = true)
    @BindingType(SOAPBinding.SOAP12HTTP_BINDING)
    @WebService(endpointInterface = "peers.orders.Orders", targetNamespace = "urn:example:orders",
        serviceName = "OrderService", portName = "Orders12", wsdlLocation = "orders.wsdl")
    public static class AddressedOrders12 extends OrdersService {
    }

    @WebService(endpointInterface = "peers.prices.Prices", targetNamespace = "urn:example:prices",
        serviceName = "PriceService", portName = "Prices11", wsdlLocation = "prices.wsdl")
    public static class Prices11 extends PricesService {
    }

    @BindingType(SOAPBinding.SOAP12HTTP_BINDING)
    @WebService(endpointInterface = "peers.prices.Prices", targetNamespace = "urn:example:prices",
        serviceName = "PriceService", portName = "Prices12", wsdlLocation = "prices.wsdl")
    public static class Prices12 extends PricesService {
    }

    @WebService(endpointInterface = "peers.quotes.Quotes", targetNamespace = "urn:example:quotes",
        serviceName = "QuoteService", portName = "Quotes11", wsdlLocation = "quotes.wsdl")
    public static class Quotes11 extends QuotesService {
    }

    @BindingType(SOAPBinding.SOAP12HTTP_BINDING)
    @WebService(endpointInterface = "peers.quotes.Quotes", targetNamespace = "urn:example:quotes",
        serviceName = "QuoteService", portName = "Quotes12", wsdlLocation = "quotes.wsdl")
    public static class Quotes12 extends QuotesService {
    }

    abstract static class OrdersService implements Orders {
        @Override
        public Receipt register(Order order, Session session, Holder<Trace> trace)
                throws OutOfStock_Exception, Refused_Exception {
            if (order.getLine().stream().anyMatch(line -> line.getSku().equals("none"))) {
                OutOfStock none = new OutOfStock();
                none.setSku("none");
                none.setLeft(0);
                throw new OutOfStock_Exception("out of stock", none);
            }
            if (order.getCustomer().equals("blocked")) {
                Refused refused = new Refused();
                refused.setUntil(calendar("2025-01-31"));
                throw new Refused_Exception("refused", refused);
            }
            if (order.getCustomer().equals("broken")) {
                throw failure("the warehouse is closed", getClass().isAnnotationPresent(BindingType.class));
            }
            BigDecimal total = BigDecimal.ZERO;
            long count = 0;
            for (Line line : order.getLine()) {
                total = total.add(line.getPrice().multiply(BigDecimal.valueOf(line.getQuantity())));
                count += line.getQuantity();
            }
            XMLGregorianCalendar due = (XMLGregorianCalendar) order.getPlaced().clone();
            due.add(factory().newDuration("P1D"));
            Receipt receipt = new Receipt();
            receipt.setTotal(total);
            receipt.setDue(due);
            receipt.setSize(order.getAttachment() == null ? 0 : order.getAttachment().length);
            receipt.setCount(count);
            receipt.setUrgent(order.getPriority() == Priority.HIGH);
            receipt.setDestination(order.getAddress().getClass().getSimpleName());
            receipt.setOrder(order);
            trace.value = new Trace();
            trace.value.setId(session.getToken() + "/" + order.getNumber());
            return receipt;
        }

        @Override
        public List<Line> find(int limit, Priority priority) {
            List<Line> lines = new ArrayList<>();
            for (int n = 1; n <= limit; n++) {
                Line line = new Line();
                line.setSku("S-" + n);
                line.setQuantity(n);
                line.setPrice(new BigDecimal("0.50").multiply(BigDecimal.valueOf(n)));
                lines.add(line);
            }
            return lines;
        }

        @Override
        public void cancel(int number) {
            try {
                Files.writeString(Path.of(System.getenv("NOTES")), "cancelled " + number + "\n",
                    StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            } catch (IOException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    abstract static class PricesService implements Prices {
        @Override
        public BigDecimal lookup(String sku) throws Unknown {
            if (!sku.equals("A-1")) {
                throw new Unknown("no such article", sku);
            }
            return new BigDecimal("12.50");
        }

        @Override
        public Amounts convert(Amount amount) {
            Amounts amounts = new Amounts();
            if (amount.getCurrency().equals("EUR")) {
                Amount dollars = new Amount();
                dollars.setCurrency("USD");
                dollars.setValue(amount.getValue().multiply(new BigDecimal("1.08"))
                    .setScale(2, RoundingMode.HALF_EVEN));
                amounts.getAmount().addAll(List.of(amount, dollars));
            }
            return amounts;
        }
    }

    abstract static class QuotesService implements Quotes {
        @Override
        public void quote(String sku, int quantity, Holder<Options> options,
                Holder<BigDecimal> price, Holder<XMLGregorianCalendar> delivery) throws TooMany {
            if (quantity > 1000) {
                throw new TooMany("too many", 1000);
            }
            price.value = new BigDecimal("12.50").multiply(BigDecimal.valueOf(quantity));
            delivery.value = calendar(LocalDate.of(2024, 2, 27).plusDays(quantity).toString());
        }
    }

    static SOAPFaultException failure(String reason, boolean soap12) {
        try {
            QName code = soap12 ? SOAPConstants.SOAP_RECEIVER_FAULT
                : new QName(SOAPConstants.URI_NS_SOAP_1_1_ENVELOPE, "Server");
            SOAPFactory factory = SOAPFactory.newInstance(soap12
                ? SOAPConstants.SOAP_1_2_PROTOCOL : SOAPConstants.SOAP_1_1_PROTOCOL);
            return new SOAPFaultException(factory.createFault(reason, code));
        } catch (SOAPException e) {
            throw new IllegalStateException(e);
        }
    }

    static XMLGregorianCalendar calendar(String text) {
        return factory().newXMLGregorianCalendar(text);
    }

    static DatatypeFactory factory() {
        try {
            return DatatypeFactory.newInstance();
        } catch (DatatypeConfigurationException e) {
            throw new IllegalStateException(e);
        }
    }
}
