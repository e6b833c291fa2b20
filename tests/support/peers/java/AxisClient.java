import java.math.BigDecimal;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Calendar;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TimeZone;
import javax.xml.namespace.QName;
import javax.xml.rpc.Call;
import javax.xml.rpc.Service;
import peers.staff.Person;
import peers.staff.Report;
import peers.staff.StaffServiceLocator;
import peers.staff.Staff_PortType;

/**
 * Asks a hosted rpc/encoded service, with Axis 1, and prints its account as JSON:
 * {@code java AxisClient staff WSDL-URL 1.1}. Axis writes every object once and refers to it.
 */
public class AxisClient {
    static final String NS = "urn:example:staff";

    public static void main(String[] arguments) throws Exception {
        URL wsdl = new URL(arguments[1]);
        Service service = new org.apache.axis.client.Service(wsdl, new QName(NS, "StaffService"));
        Call call = service.createCall(new QName(NS, "Staff"), new QName(NS, "report"));
        Staff_PortType port =
            new StaffServiceLocator().getStaff(new URL(call.getTargetEndpointAddress()));

        byte[] photo = {0, 1, (byte) 0xfe, (byte) 0xff};
        Person boss = person("Chief", "99.99", "1999-12-31T23:59:59Z", photo, null);
        Person[] people = {
            person("Bö", "10.50", "2001-02-03T04:05:06Z", null, boss),
            person("Al", "0.01", "2001-02-03T04:05:06Z", null, boss),
            boss,
        };
        Report report = port.report("all", people);

        List<Object> managers = new ArrayList<>();
        List<Object> photos = new ArrayList<>();
        for (Person person : report.getPeople()) {
            managers.add(person.getManager() == null ? null : person.getManager().getName());
            photos.add(hex(person.getPhoto()));
        }
        Person oldest = report.getOldest();
        Map<String, Object> account = new LinkedHashMap<>();
        account.put("names", List.of(report.getNames()));
        account.put("payroll", report.getPayroll().toPlainString());
        account.put("bytes", report.getBytes());
        account.put("oldest", String.join(" ", oldest.getName(), oldest.getPay().toPlainString(),
            oldest.getSince().toInstant().toString(), hex(oldest.getPhoto())));
        account.put("managers", managers);
        account.put("photos", photos);
        System.out.write(Client.json(account).getBytes(StandardCharsets.UTF_8));
        System.out.flush();
    }

    static Person person(String name, String pay, String since, byte[] photo, Person manager) {
        Calendar calendar = Calendar.getInstance(TimeZone.getTimeZone("UTC"));
        calendar.setTimeInMillis(Instant.parse(since).toEpochMilli());
        Person person = new Person();
        person.setName(name);
        person.setPay(new BigDecimal(pay));
        person.setSince(calendar);
        person.setPhoto(photo);
        person.setManager(manager);
        return person;
    }

    static String hex(byte[] bytes) {
        return bytes == null ? null : HexFormat.of().formatHex(bytes);
    }
}
