<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:template match="/">
    <lines><xsl:for-each select="//line"><line><xsl:value-of select="."/></line></xsl:for-each></lines>
  </xsl:template>
</xsl:stylesheet>
